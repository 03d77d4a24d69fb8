"""SPEED, *shallow prefill, deep decode* (arXiv 2605.06105): what is deep follows from lengths alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Self

from sglang_speed.config import SpeedConfig
from sglang_speed.method.bands import DepthBand
from sglang_speed.method.deep_tokens import Context, DeepTokens
from sglang_speed.method.messages import merged, short_messages
from sglang_speed.policies.base import DepthPolicy


class SpeedPolicy(DepthPolicy):
    """Shallow prefill, deep decode: anchors, the tail, the scored span and what is generated are deep; short messages
    too, where the checkpoint says so."""

    window = 0

    def __init__(self, config: SpeedConfig) -> None:
        self.config = config

    @classmethod
    def for_band(cls, config: SpeedConfig, band: DepthBand) -> Self:
        """The same tokens are deep in every deep band."""
        return cls(config)

    def deep_tokens(
        self, prompt_len: int, scored_from: int | None = None, token_ids: Sequence[int] | None = None
    ) -> DeepTokens:
        assert prompt_len >= 1, f"{prompt_len=}: a request has at least one prompt token"
        deep_start = max(0, prompt_len - self.config.tail_tokens)
        if scored_from is not None:
            deep_start = min(deep_start, scored_from)
        deep = DeepTokens(num_anchors=min(self.config.anchor_tokens, deep_start), deep_start=deep_start)
        if not self.config.keeps_states:
            return deep
        return replace(deep, context=self._context(deep, prompt_len, scored_from, token_ids))

    def _context(
        self, deep: DeepTokens, prompt_len: int, scored_from: int | None, token_ids: Sequence[int] | None
    ) -> Context:
        end = min(prompt_len, deep.deep_start + self.config.tail_tokens)
        window = max(0, end - self.window)
        short: tuple[range, ...] = ()
        if self.config.messages is not None:
            assert token_ids is not None, "where messages stand is known from the token ids alone"
            short = short_messages(token_ids, end, self.config.messages)
        chosen = merged([range(deep.num_anchors), *short, range(window, end), range(deep.deep_start, end)])
        num_chosen = sum(map(len, chosen))
        num_deep = self.num_in_context(end, num_chosen)
        whole_from = window if num_deep > num_chosen else end
        if scored_from is not None:
            whole_from = min(whole_from, scored_from)
        return Context(end, chosen, num_deep, window, whole_from)

    @property
    def chooses(self) -> bool:
        return self.config.keeps_states

    def num_in_context(self, end: int, num_chosen: int) -> int:
        """Deep tokens of a context of `end` tokens, of which `num_chosen` are deep by themselves."""
        return num_chosen

    @property
    def min_deep_tokens(self) -> int:
        return self.config.anchor_tokens + self.config.tail_tokens

    def anchor_tokens(self, token_ids: Sequence[int], deep: DeepTokens) -> tuple[int, ...] | None:
        """None where there are no anchors, where the decode phase begins among them, or where each request computes its
        own from states."""
        num_anchors = self.config.anchor_tokens
        if num_anchors == 0 or deep.num_anchors < num_anchors or deep.context is not None:
            return None
        return tuple(token_ids[:num_anchors])

    def max_reusable_prefix(self, deep: DeepTokens, has_anchors: bool) -> int:
        """The tree holds no KV that was computed in the deep band, so a hit ends where the decode phase begins, and at
        0 where only the request itself can compute its anchors.

        With states nothing is lost: at least the last token of the context is new, and what belongs together with it.
        """
        if deep.context is not None:
            return min(deep.context.whole_from, deep.context.end - 1)
        if deep.num_anchors and not has_anchors:
            return 0
        return deep.deep_start
