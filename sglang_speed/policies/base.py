"""What the pools, the scheduler's side, the attention and the reference ask of a depth policy.

A policy answers on the CPU and in counts, because the scheduler must know them before the forward; which rows they are
may be decided later and on the device. A deep band is always an ordinary causal sequence: of its deep tokens, or of all
tokens where the others are filled in. From the deep start on every token is in it, so that in decode its length is the
request's less one number, the gap.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

from sglang_speed.config import SpeedConfig
from sglang_speed.method.bands import DepthBand
from sglang_speed.method.deep_tokens import DeepTokens


class DepthPolicy(ABC):
    """How one method fills one deep band of a request. A model with several deep bands has a policy for each.

    The deep tokens of a band are among those of the band below it.
    is_filled: whether the others are visible there too, with KV that comes from the hidden state at the cutoff.
    """

    is_filled = False

    @property
    @abstractmethod
    def chooses(self) -> bool:
        """Whether prompt tokens pass the deep band for what they are, not only for where they stand."""

    @classmethod
    @abstractmethod
    def for_band(cls, config: SpeedConfig, band: DepthBand) -> Self:
        """The policy of one deep band of a checkpoint."""

    @abstractmethod
    def deep_tokens(
        self, prompt_len: int, scored_from: int | None = None, token_ids: Sequence[int] | None = None
    ) -> DeepTokens:
        """The deep tokens of a request.

        prompt_len: prompt tokens, at least 1.
        scored_from: first position whose input log-probabilities were asked for, None where they were not.
        token_ids: those of the prompt; needed where messages count.
        """

    @property
    @abstractmethod
    def min_deep_tokens(self) -> int:
        """Deep tokens that every long prompt has at least: a deep band must hold more of one request."""

    @abstractmethod
    def anchor_tokens(self, token_ids: Sequence[int], deep: DeepTokens) -> tuple[int, ...] | None:
        """The tokens that the anchors' deep KV depends on, by which requests share it; None where they must not."""

    @abstractmethod
    def max_reusable_prefix(self, deep: DeepTokens, has_anchors: bool) -> int:
        """Longest prompt prefix that may come from the radix tree without losing deep rows.

        has_anchors: whether the anchors are deep without it, shared or computed by themselves.
        """
