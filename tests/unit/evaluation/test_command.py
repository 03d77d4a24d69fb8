"""What a user can get wrong is said before a server is started."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from sglang_speed.checkpoints.adapter import PROVENANCE_NAME
from sglang_speed.checkpoints.convert import convert
from sglang_speed.errors import ConfigError
from sglang_speed.lab.evaluation import TASK_NAMES
from sglang_speed.lab.evaluation.command import chat_format_of, compared, require_context, suite_of
from sglang_speed.lab.evaluation.measure import Answers
from sglang_speed.lab.evaluation.options import EvaluationOptions
from sglang_speed.lab.evaluation.subjects import Subject, split_name, subjects_of
from sglang_speed.lab.evaluation.tasks import LENGTHS, TASKS


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.tiny_models import make_tiny_model

    return make_tiny_model(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def speed(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(llama, tmp_path_factory.mktemp("speed") / "model", prefill_layers=6, tail_tokens=3).path


def test_without_names_everything_is_asked_but_long_texts() -> None:
    suite = suite_of(EvaluationOptions())
    assert (*suite.tasks, "long") == TASK_NAMES == ("responses", *TASKS)
    assert suite.lengths == LENGTHS
    assert suite_of(EvaluationOptions(task=["tools", "tools"])).tasks == ("tools",)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (EvaluationOptions(task=["needles"]), "--task needles is not one of responses, needle, tools"),
        (EvaluationOptions(samples=1), "--samples 1 is too few for responses: an error needs more than the 1"),
        (
            EvaluationOptions(samples=5, task=["needle"]),
            "--samples 5 is too few for needle: .* more than the 5",
        ),
        (EvaluationOptions(servers=0), "--servers 0 is below 1"),
    ],
)
def test_a_suite_that_cannot_be_asked_is_refused(options: EvaluationOptions, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        suite_of(options)


def test_a_speed_checkpoint_is_compared_with_its_own_weights(speed: Path) -> None:
    full_depth, subjects = compared(EvaluationOptions([str(speed)], tail_tokens=[1, 16, 1]))
    assert full_depth.speed is None
    assert [subject.label for subject in subjects] == ["model, 6 of 8, tail 1", "model, 6 of 8, tail 16"]
    assert {subject.weights for subject in subjects} == {full_depth.weights}


def test_two_models_with_one_label_are_refused_and_one_that_is_named_twice_is_asked_once(
    speed: Path, llama: Path, tmp_path: Path
) -> None:
    from tests.tiny_models import make_tiny_model

    other = convert(make_tiny_model(tmp_path / "other", seed=1), tmp_path / "model", prefill_layers=6, tail_tokens=3)
    options = EvaluationOptions([str(speed), f"again={speed}"], full_depth=str(llama))
    assert [subject.name for subject in compared(options)[1]] == ["model"]
    with pytest.raises(ConfigError, match=r"are both called 'model, 6 of 8, tail 3'.*NAME=DIR"):
        compared(EvaluationOptions([str(speed), str(other.path)], full_depth=str(llama)))


def test_a_trained_checkpoint_is_compared_with_what_it_was_made_from(speed: Path, llama: Path, tmp_path: Path) -> None:
    trained = convert(speed, tmp_path / "trained", prefill_layers=6).path
    (trained / PROVENANCE_NAME).write_text("{}", encoding="utf-8")
    for wrong in (None, str(trained)):
        with pytest.raises(ConfigError, match=r"trained was trained for its cutoff .* compared with; .* --full-depth"):
            compared(EvaluationOptions([str(trained)], full_depth=wrong))
    full_depth, subjects = compared(EvaluationOptions([str(trained)], full_depth=str(llama)))
    assert (full_depth.source, [subject.source for subject in subjects]) == (str(llama), [str(trained)])


def test_a_conversion_has_the_weights_of_its_source_and_another_checkpoint_has_not(
    llama: Path, speed: Path, tmp_path: Path
) -> None:
    from tests.tiny_models import make_tiny_model

    other = make_tiny_model(tmp_path / "other", seed=1)
    full_depth, subjects = compared(
        EvaluationOptions([f"ours={speed}", f"base={llama}", str(other)], full_depth=str(llama))
    )
    assert [subject.name for subject in subjects] == ["ours", "other"]
    assert subjects[0].weights == full_depth.weights != subjects[1].weights


def test_a_plain_llama_alone_is_full_depth(llama: Path) -> None:
    full_depth, subjects = compared(EvaluationOptions([str(llama)]))
    assert (full_depth.source, subjects) == (str(llama), [])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (EvaluationOptions(), "name either checkpoints or the --url"),
        (EvaluationOptions(["a"], url="http://b"), "name either checkpoints or the --url"),
        (EvaluationOptions(["a", "b"]), "--full-depth is missing"),
        (EvaluationOptions(url="http://127.0.0.1:1"), "--full-depth is missing"),
        (
            EvaluationOptions(url="http://127.0.0.1:1", full_depth="a", tail_tokens=[4]),
            "--tail-tokens needs a checkpoint",
        ),
        (EvaluationOptions(["/nowhere"]), "/nowhere is neither a directory"),
        (EvaluationOptions(["trained="]), "trained= is neither a directory nor NAME=DIRECTORY"),
    ],
)
def test_what_cannot_be_compared_is_refused(options: EvaluationOptions, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        compared(options)


def test_a_tail_that_no_prompt_can_have_is_refused(speed: Path) -> None:
    with pytest.raises(ConfigError, match="tail_tokens=0 is below 1"):
        subjects_of(str(speed), [0])


def test_a_url_that_does_not_answer_is_refused() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(ConfigError, match=rf"{url} does not answer as an SGLang server"):
            compared(EvaluationOptions(url=url, full_depth="a"))


def test_a_directory_may_have_an_equals_sign(tmp_path: Path) -> None:
    path = tmp_path / "lr=1"
    path.mkdir()
    assert split_name(str(path)) == ("lr=1", path)
    assert split_name(f"trained={path}") == ("trained", path)


def test_models_of_different_vocabularies_are_not_compared(llama: Path, tmp_path: Path) -> None:
    from tests.tiny_models import make_tiny_model

    other = make_tiny_model(tmp_path / "other")
    path = other / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    for template in other.glob("*.jinja"):
        template.unlink()
    path.write_text(json.dumps({**settings, "chat_template": "{{ messages[0].content }}"}), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"have different vocabularies or chat templates, .* its own base"):
        chat_format_of([subject_at(llama), subject_at(other)])


def test_a_checkpoint_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    from tests.tiny_models import make_tiny_model

    other = make_tiny_model(tmp_path / "other")
    for template in other.glob("*.jinja"):
        template.unlink()
    path = other / "tokenizer_config.json"
    settings = {**json.loads(path.read_text(encoding="utf-8")), "chat_template": None}
    path.write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"other has no chat template"):
        chat_format_of([subject_at(other)])


def test_texts_longer_than_a_models_context_are_refused(llama: Path) -> None:
    subject = subject_at(llama)
    chat = chat_format_of([subject])
    require_context(suite_of(EvaluationOptions(task=["needle"], length=[100], samples=6)), chat, [subject])
    with pytest.raises(ConfigError, match=r"needle asks for \d+ tokens and .* has a context of 2048: choose a shorter"):
        require_context(suite_of(EvaluationOptions(task=["needle"], length=[100, 600], samples=10)), chat, [subject])


def test_what_is_asked_has_a_digest_of_its_own(llama: Path) -> None:
    chat = chat_format_of([subject_at(llama)])
    task = TASKS["recall"]()
    assert Answers(task, chat, 0, 6).digest == Answers(task, chat, 0, 6).digest
    assert Answers(task, chat, 0, 6).digest != Answers(task, chat, 1, 6).digest


def subject_at(path: Path) -> Subject:
    return subjects_of(str(path), ())[0]
