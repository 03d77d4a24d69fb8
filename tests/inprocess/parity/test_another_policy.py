"""A policy is a class and a row: pools, attention and reference ask it, and know nothing of what it decides."""

from __future__ import annotations

from pathlib import Path

import pytest

from sglang_speed import policies
from tests.catalogue import CHUNKS_OF_16, PAGES, POLICIES, Bands
from tests.inprocess.parity.expected import Ask, Expected, prompt
from tests.scheduler_harness import running_scheduler


@pytest.mark.parametrize("policy", [name for name in POLICIES if name not in policies.POLICIES])
@pytest.mark.parametrize("bands", [Bands(), Bands((3, 5))], ids=str)
@pytest.mark.parametrize("settings", [{}, CHUNKS_OF_16 | PAGES], ids=str)
def test_a_third_policy_is_served_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, int], bands: Bands, policy: str
) -> None:
    monkeypatch.setitem(policies.POLICIES, "speed", POLICIES[policy])
    expected = Expected(tmp_path / "other", bands)
    long = prompt(50)
    with running_scheduler(expected.path, **settings) as engine:
        expected.answered(engine, [Ask(long), Ask(prompt(3)), Ask(prompt(21, seed=1), scored_from=4)])
        warm = expected.answered(engine, [Ask([*long, *prompt(30, seed=2)]), Ask(long)])
        assert [answer.cached_tokens > 0 for answer in warm] == [True, True]
    monkeypatch.undo()
    speed = Expected(tmp_path / "speed", bands)
    assert speed.greedy(long, 8) != expected.greedy(long, 8), "the policies say the same, so nothing was tested"
