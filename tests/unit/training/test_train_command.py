"""What a user sees of `sglang-speed train`: mistakes in one line before anything long begins, and where it goes on."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_speed.config import SpeedConfig
from sglang_speed.lab.cli import main
from sglang_speed.lab.common.chat import read_chats
from sglang_speed.lab.common.local_server import ServerFailed
from sglang_speed.lab.training import command
from sglang_speed.lab.training.settings import TrainingRun
from tests.unit.training.chats import assistant, user, write_chats
from tests.unit.training.conftest import MakeModel
from tests.unit.training.runs import answered_chats, run, settings_of, weights_of
from tests.unit.training.stub_server import stub_server

Train = Callable[..., str]


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """The command takes SIGTERM for itself."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def train(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Train:
    """train(status, options...): what the command says on stderr; its files are in `tmp_path`."""

    def call(status: int, *options: str | int | Path, source: Path = llama) -> str:
        options = options if "--prefill-layers" in options else (*options, "--prefill-layers", 2)
        words = ["sglang-speed", "train", source, tmp_path / "trained", *options]
        monkeypatch.setattr(sys, "argv", list(map(str, words)))
        with pytest.raises(SystemExit) as ended:
            main()
        assert (ended.value.code or 0) == status
        return capsys.readouterr().err

    return call


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return answered_chats(tmp_path)


def test_the_command_writes_the_checkpoint_and_says_what_became_better(
    train: Train, data: Path, tmp_path: Path
) -> None:
    said = train(
        0, "--data", data, "--tail-tokens", 2, "--tail-tokens", 5, "--lora-rank", 2, "--batch-size", 4, "--epochs", 1,
        "--held-out", 0.2, "--log-to", "tensorboard",
    )  # fmt: skip
    assert "trained on 8 chats, 2 more held out" in said
    assert "KL to full depth, nats per token of the held-out chats: " in said
    assert re.search(r"step 2 of 2: .*loss \d", said)
    assert "it/s" not in said, "bars of another library"
    assert SpeedConfig.from_checkpoint(tmp_path / "trained") == SpeedConfig(4, 2, 1, 2)
    assert list((tmp_path / "trained.work").rglob("events.out.tfevents.*"))


OPEN_CHAT = [[user("a")]]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--prefill-layers", 4), "prefill_layers=4 is every layer"),
        (("--prefill-layers", 5), "prefill_layers=5 is not between 1 and 4"),
        (("--objective", "rl"), "--objective rl is not one of distil, sft"),
        (("--first-layer", "3"), "first_layer=3 is not between 0 and 2"),
        (("--data", "missing.jsonl"), "missing.jsonl cannot be read"),
        (("--tail-tokens", 0), "tail_tokens=0 is below 1"),
        (("--lora-rank", -1), "lora_rank=-1 is below 0"),
        (("--batch-size", 0), "batch_size=0 is below 1"),
        (("--held-out", 1), "held_out=1.0 is not in"),
        (("--held-out", 0.97), "held_out=0.97 of 10 chats leaves none to train on"),
        (("--epochs", 0), "epochs=0.0 is not above 0"),
        (("--learning-rate", 0), "learning_rate=0.0 is not above 0"),
        (("--seed", -1), "seed=-1 is below 0"),
        (("--span-tokens", -1), "span_tokens=-1 is below 0"),
        (("--span-tokens", 4, "--objective", "sft"), "span_tokens=4 needs --objective distil"),
        (("--answer-tokens", 0), "answer_tokens=0 is below 1"),
        (("--temperature", -1), "temperature=-1.0 is below 0"),
        (("--max-tokens", 20), r"line 1 has \d+ tokens, and at most 20 fit"),
        (("--log-to", "nowhere"), "--log-to nowhere is not one of none, .*tensorboard"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_made(
    train: Train, data: Path, tmp_path: Path, options: tuple[Any, ...], problem: str
) -> None:
    said = train(2, *(() if "--data" in options else ("--data", data)), *options)
    assert said.count("\n") == 1
    assert re.search(problem, said), said
    assert said.startswith("sglang-speed: ")
    assert {path.name for path in tmp_path.iterdir()} <= {"chats.jsonl"}


@pytest.mark.parametrize(
    ("chats", "options", "problem"),
    [
        (OPEN_CHAT, ("--objective", "sft"), "line 1 has no answer at its end"),
        ([[user("a"), assistant("b")], *OPEN_CHAT], ("--objective", "sft"), "line 2 has no answer at its end"),
        ([[assistant("a")]], (), "line 1 begins with an answer"),
        ([[user("a"), {"role": "robot", "content": "b"}]], (), "line 1, message 2: role='robot' is not one of system,"),
        (
            [[user("a"), assistant("b"), user(None)]],
            (),
            "line 1, message 3: role 'user' has no content: write the question",
        ),
        ([[user("a" * 2048), assistant("b")]], (), r"line 1 has 20\d\d tokens, and at most 2048 fit"),
        (
            [[user("a"), assistant(None)] * 9],
            (),
            r"line 1 has \d+ tokens and 9 messages to be written, and at most 2048",
        ),
        ([[user("a" * 1800)]], (), r"line 1 has \d+ tokens and 1 message to be written, and at most 2048"),
    ],
)
def test_chats_that_could_not_be_trained_on_are_refused_before_the_model_answers(
    train: Train, tmp_path: Path, chats: list[Any], options: tuple[str, ...], problem: str
) -> None:
    data = write_chats(tmp_path / "chats.jsonl", chats)
    said = train(2, "--data", data, *options, "--url", "http://127.0.0.1:1")
    assert re.search(problem, said), said
    assert not (tmp_path / "trained.work").exists()


def test_a_trained_source_is_no_teacher(train: Train, data: Path, llama: Path, tmp_path: Path) -> None:
    train(0, "--data", data, "--epochs", 1)
    again = ("--data", data, "--work", tmp_path / "again.work")
    trained = tmp_path / "first"
    (tmp_path / "trained").rename(trained)
    said = train(2, *again, source=trained)
    assert f"{trained} was trained for its cutoff" in said
    assert "cannot be the teacher; name the model that it was made from" in said
    train(0, *again, "--objective", "sft", "--epochs", 1, source=trained)


def test_a_run_with_nothing_held_out_says_that_nobody_knows_whether_it_helped(train: Train, tmp_path: Path) -> None:
    data = write_chats(tmp_path / "chats.jsonl", [[user("a"), assistant("b")]])
    last = train(0, "--data", data, "--epochs", 1).splitlines()[-1]
    assert (
        "trained on 1 chat, 2 tokens of answers in all; none held out, so its effect was not measured: give more"
        in last
    )


def test_a_destination_that_cannot_be_written_is_said_before_anything_long_begins(
    train: Train, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "load_model", None)
    (tmp_path / "trained").symlink_to(tmp_path / "trained")
    assert "trained cannot be written (Symlink loop" in train(2, "--data", data)
    (tmp_path / "trained").unlink()
    (tmp_path / "trained").symlink_to(data / "below a file")
    assert "cannot be written (Not a directory" in train(2, "--data", data)
    assert not (tmp_path / "trained.work").exists()


def test_a_destination_that_exists_is_left_alone(train: Train, data: Path, tmp_path: Path) -> None:
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / "file").touch()
    assert "exists and is not empty" in train(2, "--data", data)
    assert [path.name for path in (tmp_path / "trained").iterdir()] == ["file"]


def test_a_working_folder_of_another_run_is_left_alone(
    train: Train, data: Path, make_model: MakeModel, tmp_path: Path
) -> None:
    source = make_model()
    begin = ("--data", data, "--epochs", 1)
    work = tmp_path / "trained.work"
    work.mkdir()
    (work / "file").touch()
    assert "has files that are not of a training run" in train(2, *begin, source=source)
    (work / "file").unlink()
    train(0, *begin, source=source)
    (tmp_path / "trained").rename(tmp_path / "first")
    before = sorted(work.rglob("*"))
    assert "belongs to a run with another epochs (1.0, now 2.0)" in train(
        2, "--data", data, "--epochs", 2, source=source
    )
    assert "belongs to a run with another source, weights" in train(2, *begin, source=make_model(seed=1))
    data.write_text(data.read_text(encoding="utf-8").replace("question 3", "question 4"), encoding="utf-8")
    assert "belongs to a run with another data" in train(2, *begin, source=source)
    settings = (source / "tokenizer_config.json").read_text(encoding="utf-8")
    (source / "tokenizer_config.json").write_text(f"{settings} ", encoding="utf-8")
    assert "belongs to a run with another chat_format, data" in train(2, *begin, source=source)
    os.utime(source / "model.safetensors")
    assert "another weights" in train(2, *begin, source=source)
    assert sorted(work.rglob("*")) == before


def test_limits_and_reporters_may_change_before_a_run_goes_on(train: Train, data: Path, tmp_path: Path) -> None:
    train(0, "--data", data, "--epochs", 1)
    (tmp_path / "trained").rename(tmp_path / "first")
    train(0, "--data", data, "--epochs", 1, "--max-tokens", 500, "--log-to", "tensorboard")
    assert (tmp_path / "trained" / "model.safetensors").is_file()


def test_a_working_folder_that_cannot_be_made_is_said(train: Train, data: Path, tmp_path: Path) -> None:
    assert "cannot be written" in train(2, "--data", data, "--work", data / "work")


def test_several_processes_are_refused(train: Train, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "training runs in one process" in train(2, "--data", data)


def test_an_address_without_a_server_is_one_line(train: Train, tmp_path: Path) -> None:
    data = write_chats(tmp_path / "chats.jsonl", OPEN_CHAT * 9)
    said = train(2, "--data", data, "--url", "http://127.0.0.1:1/")
    assert said.splitlines()[-1].startswith("sglang-speed: http://127.0.0.1:1 does not answer (")


def test_training_on_what_the_model_wrote_is_training_on_given_answers(llama: Path, tmp_path: Path) -> None:
    settings = settings_of(temperature=0, answer_tokens=100, concurrency=1)
    given = run(llama, tmp_path, settings, "given")
    chats = [chat.messages for chat in read_chats(tmp_path / "chats.jsonl")]
    written = [message["content"] for messages in chats for message in messages if message["role"] == "assistant"]
    opened = [[message | {"content": None} if message["role"] == "assistant" else message for message in messages]
              for messages in chats]  # fmt: skip
    data = write_chats(tmp_path / "open.jsonl", opened)
    with stub_server(lambda prompt, number: written[number - 1]) as server:
        record = command.train_checkpoint(
            TrainingRun(llama, tmp_path / "o", data, settings, tmp_path / "o.work", server.url)
        )
    assert record.num_said_tokens == given.num_said_tokens
    before, after = weights_of(tmp_path / "given"), weights_of(tmp_path / "o")
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())


def own_server(url: str, ended: threading.Event, alive: bool = True) -> Any:
    """What `start_server` returns, without processes."""

    def require_alive() -> None:
        if not alive:
            raise ServerFailed("the server ended")

    return lambda *args: SimpleNamespace(url=url, wait=lambda: None, stop=ended.set, require_alive=require_alive)


def test_on_sigterm_the_server_is_stopped_before_its_answers_are_waited_for(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_chats(tmp_path / "chats.jsonl", OPEN_CHAT * 9)
    ended = threading.Event()

    def terminate(prompt: str, number: int) -> str:
        if number == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return "late" if ended.wait(20) else "the server was not stopped"

    with stub_server(terminate) as server:
        monkeypatch.setattr(command, "start_server", own_server(server.url, ended))
        train(128 + signal.SIGTERM, "--data", data)
    assert ended.is_set()
    assert not [path for path in (tmp_path / "trained.work").iterdir() if path.name.startswith("full-depth-")]


def test_a_server_of_its_own_that_ended_is_said_to_have(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_chats(tmp_path / "chats.jsonl", OPEN_CHAT)
    monkeypatch.setattr(command, "start_server", own_server("http://127.0.0.1:1", threading.Event(), alive=False))
    assert train(1, "--data", data).endswith("sglang-speed: the server ended\n")
