"""Stop patterns: those that people use are searched, and a search that takes too long ends its own request."""

from __future__ import annotations

import os
import re
import signal
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_speed.guard import stop_patterns

TEXT = 'Some words of an answer, number 12,345 of "many", and so on. ' * 300

ORDINARY = (
    r"[\w.+-]+@[\w-]+\.[\w.]+",
    r"(?i)\b(user|human|assistant)\s*:\s*",
    r"(?i)final answer\s*[:=]\s*-?\d+(\.\d+)?",
    r'"(?:[^"\\]|\\.)*"$',
    r"(\w+\s+){5}\Z",
    r"\[\s*-?\d+(?:\s*,\s*-?\d+)*\s*\]",
    r"(foo|bar)+",
    "x_{i}",
)
FOREVER = (
    r"(\w+ ?)+\0",
    r"(?:(?:.|\n)?){60}\0",
    ".*.*.*.*\0",
    r"\w?" * 40 + "!",
    "(?:.|..)" * 40 + "\0",
    ".{0,5000}" * 3 + "\0",
)


@pytest.fixture(autouse=True)
def _speed_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop_patterns, "served", lambda: SimpleNamespace(num_ranks=1))


def request(pattern: str) -> Any:
    return SimpleNamespace(
        sampling_params=SimpleNamespace(stop_regex_strs=[pattern]), finished_reason=None, finished_len=None
    )


def search(req: Any, new_accepted_len: int = 1) -> bool:
    """As the host does, on one output."""
    return any(re.search(pattern, TEXT) for pattern in req.sampling_params.stop_regex_strs)


@pytest.mark.parametrize("pattern", ORDINARY)
def test_what_people_use_is_searched_as_by_stock_sglang(pattern: str) -> None:
    req = request(pattern)
    assert stop_patterns.end_long_search(search, req) == search(req)
    assert req.finished_reason is None


@pytest.mark.parametrize("pattern", FOREVER)
def test_a_search_that_takes_too_long_ends_its_request(pattern: str) -> None:
    req = request(pattern)
    assert stop_patterns.end_long_search(search, req)
    assert req.finished_reason.to_json()["status_code"] == 400
    assert "took longer than 0.1 s" in req.finished_reason.message


def test_nothing_is_left_of_the_timer() -> None:
    for pattern in (ORDINARY[0], FOREVER[0]):
        stop_patterns.end_long_search(search, request(pattern))
        assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)
        os.kill(os.getpid(), signal.SIGVTALRM)  # one that was on its way: it neither raises nor ends the process
        assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)


def test_ranks_end_the_same_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another rank's search took too long, this one's answer does not count."""
    monkeypatch.setattr(stop_patterns, "is_long_on_any_rank", lambda is_long, num_ranks: True)
    req = request(ORDINARY[0])
    assert stop_patterns.end_long_search(search, req)
    assert "took longer" in req.finished_reason.message


def test_other_models_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop_patterns, "served", lambda: None)
    monkeypatch.setattr(stop_patterns, "processor_time", None)
    assert not stop_patterns.end_long_search(search, request("absent"))
