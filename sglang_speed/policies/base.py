"""Depth policies: which rows a band computes, stores and shows for a request.

A policy answers on the CPU and in counts, because the scheduler must know them before the forward; which
rows they are may be decided later and on the device. SPEED knows both at once, from lengths alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from sglang_speed.method.deep_tokens import DeepTokens


class DepthPolicy(ABC):
    """How one method fills the deep band of a request."""

    @abstractmethod
    def deep_tokens(self, prompt_len: int, scored_from: int | None = None) -> DeepTokens:
        """The deep tokens of a request.

        prompt_len: prompt tokens, at least 1.
        scored_from: first position whose input log-probabilities were asked for, None where they were not.
        """

    @abstractmethod
    def max_reusable_prefix(self, deep: DeepTokens, anchors_cached: bool) -> int:
        """Longest prompt prefix that may come from the radix tree without losing deep rows."""
