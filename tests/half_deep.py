"""A policy of the tests: other deep tokens and other anchors than SPEED's."""

from __future__ import annotations

from collections.abc import Sequence

from sglang_speed.method import DeepTokens
from sglang_speed.policies import SpeedPolicy


class HalfDeep(SpeedPolicy):
    """The second half of every prompt is deep; requests that begin with the same two tokens share these as anchors."""

    def deep_tokens(self, prompt_len: int, scored_from: int | None = None) -> DeepTokens:
        deep_start = min(prompt_len // 2, prompt_len if scored_from is None else scored_from)
        return DeepTokens(num_anchors=min(2, deep_start), deep_start=deep_start)

    def anchor_tokens(self, token_ids: Sequence[int], deep: DeepTokens) -> tuple[int, ...] | None:
        return tuple(token_ids[:2]) if deep.num_anchors == 2 else None
