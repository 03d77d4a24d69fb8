"""When the full-depth model's responses are drawn again, and how several models at a time end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any, cast

import pytest

from sglang_speed.lab.common.chat import Chat
from sglang_speed.lab.common.client import Client, Score
from sglang_speed.lab.common.local_server import ServerFailed
from sglang_speed.lab.evaluation import run
from sglang_speed.lab.evaluation.measure import Answers
from sglang_speed.lab.evaluation.references import ReferenceFile
from sglang_speed.lab.evaluation.results import Results
from sglang_speed.lab.evaluation.run import Evaluation, Suite
from sglang_speed.lab.evaluation.subjects import FULL_DEPTH, Subject
from sglang_speed.lab.evaluation.tasks import TASKS


class Changing(Client):
    """A server whose weights can change: it says `token` always, and is sure of nothing else."""

    def __init__(self, token: int) -> None:
        super().__init__("http://127.0.0.1:1")
        self.token = token

    def generate(self, prompt: Sequence[int], max_new_tokens: int, **sampling: Any) -> list[int]:
        return [self.token]

    def score(self, context: Sequence[int], response: Sequence[int], tail_tokens: int) -> Score:
        return Score(tuple(0.0 if token == self.token else -5.0 for token in response), (self.token,) * len(response))


class Words:
    digest = "words"

    def prompt_ids(self, chat: Chat) -> list[int]:
        return [1, 2, len(chat.messages)]


@pytest.mark.parametrize(
    ("source", "drawn_at_last"), [("http://127.0.0.1:1", 8), ("/models/base", 7)], ids=["a server", "a checkpoint"]
)
def test_a_running_server_is_not_held_to_what_it_said_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, drawn_at_last: int
) -> None:
    full_depth = Subject(FULL_DEPTH, source, None, "weights")

    @contextmanager
    def serving(*_: Any) -> Iterator[Client]:
        yield server

    def watch(*_: Any) -> Callable[[], None]:
        return lambda: None

    monkeypatch.setattr(run, "serving", serving)
    for token in (7, 8):
        server = Changing(token)
        results = Results(tmp_path / "eval.json", {"full_depth": full_depth.digest})
        references = ReferenceFile(tmp_path / "eval.references.json")
        chat: Any = Words()
        suite = Suite(("responses",), 3, 0, (100,))
        Evaluation(full_depth, (), suite, chat, results, references, tmp_path, (), watch).run()
        (found,) = results.models
        assert found["tasks"]["responses"]["estimates"]["agreement"]["value"] == 1
    assert drawn_at_last in {token for reference in _kept(tmp_path) for token in reference["ids"]}


@pytest.mark.timeout(30)
def test_a_model_that_fails_ends_those_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their requests wait for servers that have to be stopped."""
    full, fails, waits = (Subject(name, f"/{name}", None, name) for name in ("full", "fails", "waits"))
    is_stopped, is_asked = Event(), Event()
    server: Any = SimpleNamespace(stop=is_stopped.set)

    def evaluate(self: Evaluation, subject: Subject, _: Any) -> None:
        if subject is fails:
            assert is_asked.wait(10)
            raise ServerFailed("the server ended")
        if subject is waits:
            self._servers.append(server)
            is_asked.set()
            assert is_stopped.wait(10), "nobody stopped its server"
            self._watched("", 1, (number for number in (1, 2)))

    monkeypatch.setattr(Evaluation, "_evaluate", evaluate)
    nothing: Any = None
    suite = Suite((), 2, 0, ())
    made = Evaluation(full, [waits, fails], suite, nothing, nothing, nothing, tmp_path, (), lambda *_: lambda: None)
    with pytest.raises(ServerFailed, match="the server ended"):
        made.run(num_servers=2)
    assert is_stopped.is_set()


def test_what_is_given_up_asks_no_more() -> None:
    """Not even what stands behind an item in its group."""
    asked: list[int] = []
    client = Client("http://127.0.0.1:1", concurrency=1)
    monkey: Any = Answers(TASKS["needle"](), cast(Any, Words()), 0, 15)
    monkey._ask = lambda _, item: asked.append(len(asked))
    answers = monkey.ask(client, 1)
    next(answers)
    answers.close()
    assert len(asked) <= 2 * monkey.drawn_together


def _kept(directory: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((directory / "eval.references.json").read_text())["references"]
    return found
