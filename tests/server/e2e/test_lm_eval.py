"""The recipe of docs/lm_eval.md against a real server, with two tasks of a few lines."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sglang_speed.reference.generation import score
from tests import forked
from tests.server.e2e.asking import Asker
from tests.server.e2e.reference_answers import LOGPROB_ATOL
from tests.tiny_models import ids_of

pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")

TASKS = Path(__file__).parent / "lm_eval_tasks"
BOS = 1
TAIL = 3


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tasks with the paths of their data, which lm-eval takes from the directory it is started in."""
    directory = tmp_path_factory.mktemp("tasks")
    shutil.copytree(TASKS, directory, dirs_exist_ok=True)
    for path in directory.glob("*.yaml"):
        text = path.read_text(encoding="utf-8").replace("DIRECTORY", str(directory))
        path.write_text(text, encoding="utf-8")
    return directory


def lm_eval(asker: Asker, tasks: Path, model: str, path: str, names: Sequence[str], *more: str) -> dict[str, Any]:
    """Samples of each task as lm-eval logs them."""
    out = tasks / f"out-{model}"
    settings = f"model={asker.reference.path},base_url={asker.server.url}{path},num_concurrent=4,max_length=2048"
    command = ["-m", "sglang_speed.lab.evaluation.harness", "run", "--model", model]
    command += ["--model_args", settings, "--tasks", ",".join(names), "--include_path", str(tasks)]
    command += ["--output_path", str(out), "--log_samples", *more]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_DATASETS_CACHE": str(tasks / "cache")}
    done = forked.run(*command, **offline)
    assert done.returncode == 0, done.stdout + done.stderr
    files = {name: next(out.rglob(f"samples_{name}_*.jsonl")) for name in names}
    return {name: [json.loads(line) for line in file.read_text().splitlines()] for name, file in files.items()}


def scored(samples: Sequence[dict[str, Any]]) -> Iterator[tuple[list[int], list[int], float]]:
    """Context, continuation and log-likelihood of every choice."""
    for sample in samples:
        for index, ((logprob, _),) in enumerate(sample["resps"]):
            context, continuation = (sample["arguments"][f"gen_args_{index}"][f"arg_{part}"] for part in (0, 1))
            yield ids_of(context)[BOS:], ids_of(continuation)[BOS:], float(logprob)


def test_log_likelihoods_and_answers_are_those_of_the_model_as_served(asker: Asker, tasks: Path) -> None:
    found = lm_eval(asker, tasks, "speed-completions", "/v1/completions", ["speed_choices", "speed_sayings"])
    differences = []
    for context, continuation, logprob in scored(found["speed_choices"]):
        ids = context + continuation
        expected = score(asker.reference.model, ids, len(context) - TAIL)[TAIL - 1 :]
        assert logprob == pytest.approx(sum(expected), abs=len(continuation) * LOGPROB_ATOL)
        differences.append(abs(logprob - sum(score(asker.reference.model, ids, 0)[-len(continuation) :])))
    assert max(differences) > 0.5, "what lm-eval's own client would have measured, full depth, must be another figure"
    for sample in found["speed_sayings"]:
        context = sample["arguments"]["gen_args_0"]["arg_0"]
        assert sample["resps"] == [[asker.reference.text(ids_of(context)[BOS:], 12)]]


def test_chat_completions_answer_chats(asker: Asker, tasks: Path) -> None:
    found = lm_eval(
        asker,
        tasks,
        "local-chat-completions",
        "/v1/chat/completions",
        ["speed_sayings"],
        "--apply_chat_template",
    )
    for sample in found["speed_sayings"]:
        messages = [{"role": "user", "content": sample["doc"]["question"]}]
        prompt = asker.reference.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=False
        )
        assert sample["resps"] == [[asker.reference.text(prompt, 12)]]
