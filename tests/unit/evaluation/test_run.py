"""Several models at a time: one that fails ends the others."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from sglang_speed.lab.common.local_server import ServerFailed
from sglang_speed.lab.evaluation.run import Evaluation, Suite
from sglang_speed.lab.evaluation.subjects import Subject

FULL, FAILS, *ENDLESS = (Subject(name, f"/{name}", None, name) for name in ("full", "fails", "endless", "waiting"))


@pytest.mark.timeout(30)
def test_a_model_that_fails_ends_those_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = Event()

    def items() -> Iterator[int]:
        for number in count():
            begun.set()
            time.sleep(0.01)
            yield number

    def evaluate(run: Evaluation, subject: Subject, _: Any) -> None:
        if subject is FAILS:
            assert begun.wait(10)
            raise ServerFailed("the server ended")
        if subject in ENDLESS:
            run._watched("", 0, items())

    monkeypatch.setattr(Evaluation, "_evaluate", evaluate)
    nothing: Any = None
    rest = (nothing, nothing, nothing, Path(), (), lambda *_: lambda: None)
    run = Evaluation(FULL, [ENDLESS[0], FAILS, ENDLESS[1]], Suite((), 2, 0, ()), *rest)
    with pytest.raises(ServerFailed, match="the server ended"):
        run.run(num_servers=2)
