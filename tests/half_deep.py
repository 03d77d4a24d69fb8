"""A policy of the tests: other deep tokens and other anchors than SPEED's, and fewer in each further band."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from sglang_speed.config import SpeedConfig
from sglang_speed.method import DeepTokens, DepthBand
from sglang_speed.policies import SpeedPolicy


class HalfDeep(SpeedPolicy):
    """The second half of every prompt is deep, in each further band the second half of that.

    Requests that begin with the same two tokens share these as anchors.
    """

    shallow_part = 0.5

    @classmethod
    def for_band(cls, config: SpeedConfig, band: DepthBand) -> Self:
        policy = cls(config)
        policy.shallow_part = 1 - 0.5 ** (1 + config.cutoffs.index(band.first_layer))
        return policy

    def deep_tokens(
        self, prompt_len: int, scored_from: int | None = None, token_ids: Sequence[int] | None = None
    ) -> DeepTokens:
        deep_start = min(int(prompt_len * self.shallow_part), prompt_len if scored_from is None else scored_from)
        return DeepTokens(num_anchors=min(2, deep_start), deep_start=deep_start)

    def anchor_tokens(self, token_ids: Sequence[int], deep: DeepTokens) -> tuple[int, ...] | None:
        return tuple(token_ids[:2]) if deep.num_anchors == 2 else None
