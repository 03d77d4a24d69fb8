"""FastKV (arXiv 2502.01068): the prompt tokens to which the last ones attend most pass the deep layers too.

How many they are follows from the prompt's length, so a request is admitted like any other. Which they are is known
when its last tokens have passed the shallow layers. All are computed then, from hidden states at the cutoff, which the
prefix cache keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from sglang_speed.config import SpeedConfig
from sglang_speed.method.bands import DepthBand
from sglang_speed.method.deep_tokens import Context, DeepTokens
from sglang_speed.method.messages import merged
from sglang_speed.policies.speed import SpeedPolicy


class FastKvPolicy(SpeedPolicy):
    """SPEED's deep tokens, the window whose queries score, and the best of the rest."""

    def __init__(self, config: SpeedConfig, ratio: float) -> None:
        super().__init__(config)
        assert config.selection is not None, "the policy is to select, and nothing says how"
        self.window = config.selection.window
        self.ratio = ratio

    @classmethod
    def for_band(cls, config: SpeedConfig, band: DepthBand) -> Self:
        """With several cutoffs each band selects from the one below, by the same scores."""
        assert config.selection is not None, "the policy is to select, and nothing says how"
        number = config.cutoffs.index(band.first_layer) if config.cutoffs else 0
        return cls(config, config.selection.ratio_of(number))

    @property
    def min_deep_tokens(self) -> int:
        return self.config.anchor_tokens + max(self.config.tail_tokens, self.window)

    def num_in_context(self, end: int, num_chosen: int) -> int:
        """`int(r * E)`, but never fewer than those that are deep by themselves."""
        return max(num_chosen, min(end, int(self.ratio * end)))


class ThinnedPolicy(FastKvPolicy):
    """What tokens behind a context see of it, where that is thinned: anchors, window, and the best by the scores of
    each layer and KV head, in every layer as many."""

    @classmethod
    def of(cls, config: SpeedConfig) -> Self:
        assert config.selection is not None, "nothing is thinned"
        return cls(config, config.selection.kept)

    def deep_tokens(
        self, prompt_len: int, scored_from: int | None = None, token_ids: Sequence[int] | None = None
    ) -> DeepTokens:
        seen = super().deep_tokens(prompt_len, scored_from, token_ids)
        assert seen.context is not None, "what is thinned is a context"
        end, window = seen.context.end, seen.context.window_from
        chosen = merged([range(min(seen.num_anchors, end)), range(window, end)])
        num_chosen = sum(map(len, chosen))
        num_kept = self.num_in_context(end, num_chosen)
        context = Context(end, chosen, num_kept, window, window if num_kept > num_chosen else end)
        return DeepTokens(num_anchors=0, deep_start=end, context=context)

    @property
    def min_deep_tokens(self) -> int:
        return self.config.anchor_tokens + self.window
