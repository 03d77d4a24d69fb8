"""A policy is a class and a row: pools, attention and reference ask it, and know nothing of what it decides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from sglang_speed import policies
from sglang_speed.method import DeepTokens
from sglang_speed.policies import SpeedPolicy
from tests.inprocess.parity.expected import Ask, Bands, Expected, prompt
from tests.scheduler_harness import running_scheduler


class HalfDeep(SpeedPolicy):
    """The second half of every prompt is deep; requests that begin with the same two tokens share these as anchors."""

    def deep_tokens(self, prompt_len: int, scored_from: int | None = None) -> DeepTokens:
        deep_start = min(prompt_len // 2, prompt_len if scored_from is None else scored_from)
        return DeepTokens(num_anchors=min(2, deep_start), deep_start=deep_start)

    def anchor_tokens(self, token_ids: Sequence[int], deep: DeepTokens) -> tuple[int, ...] | None:
        return tuple(token_ids[:2]) if deep.num_anchors == 2 else None


@pytest.mark.parametrize("settings", [{}, {"chunked_prefill_size": 16, "page_size": 16}], ids=str)
def test_a_third_policy_is_served_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, int]
) -> None:
    monkeypatch.setitem(policies.POLICIES, "speed", HalfDeep)
    expected = Expected(tmp_path / "half", Bands())
    long = prompt(50)
    with running_scheduler(expected.path, **settings) as engine:
        expected.answered(engine, [Ask(long), Ask(prompt(3)), Ask(prompt(21, seed=1), scored_from=4)])
        warm = expected.answered(engine, [Ask([*long, *prompt(30, seed=2)]), Ask(long)])
        assert [answer.cached_tokens > 0 for answer in warm] == [True, True]
    monkeypatch.undo()
    speed = Expected(tmp_path / "speed", Bands())
    assert speed.greedy(long, 8) != expected.greedy(long, 8), "the policies say the same, so nothing was tested"
