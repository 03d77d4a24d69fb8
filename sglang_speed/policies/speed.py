"""SPEED, *shallow prefill, deep decode* (arXiv 2605.06105): what is deep follows from lengths alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from sglang_speed.config import SpeedConfig
from sglang_speed.method.bands import DepthBand
from sglang_speed.method.deep_tokens import DeepTokens
from sglang_speed.policies.base import DepthPolicy


class SpeedPolicy(DepthPolicy):
    """Shallow prefill, deep decode: anchors, the tail, the scored span and what is generated are deep."""

    def __init__(self, config: SpeedConfig) -> None:
        self.config = config

    @classmethod
    def for_band(cls, config: SpeedConfig, band: DepthBand) -> Self:
        """The same tokens are deep in every deep band."""
        return cls(config)

    def deep_tokens(self, prompt_len: int, scored_from: int | None = None) -> DeepTokens:
        assert prompt_len >= 1, f"{prompt_len=}: a request has at least one prompt token"
        deep_start = max(0, prompt_len - self.config.tail_tokens)
        if scored_from is not None:
            deep_start = min(deep_start, scored_from)
        return DeepTokens(num_anchors=min(self.config.anchor_tokens, deep_start), deep_start=deep_start)

    @property
    def min_deep_tokens(self) -> int:
        return self.config.anchor_tokens + self.config.tail_tokens

    def anchor_tokens(self, token_ids: Sequence[int], deep: DeepTokens) -> tuple[int, ...] | None:
        """None where there are no anchors, or where the decode phase begins among them."""
        num_anchors = self.config.anchor_tokens
        if num_anchors == 0 or deep.num_anchors < num_anchors:
            return None
        return tuple(token_ids[:num_anchors])

    def max_reusable_prefix(self, deep: DeepTokens, anchors_cached: bool) -> int:
        """The tree holds no KV that was computed in the deep band, so a hit ends where the decode phase begins, and at
        0 where the anchors' deep KV must be computed first."""
        if deep.num_anchors and not anchors_cached:
            return 0
        return deep.deep_start
