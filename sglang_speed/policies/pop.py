"""POP, prefill-only pruning (arXiv 2602.03295): SPEED's deep tokens, and every other position is filled in.

A prompt position that is not computed in a deep layer has keys and values there all the same, from its hidden state at
the cutoff. So nothing is invisible, and a model needs no training for it; a prompt token takes the KV of all layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sglang_speed.method.deep_tokens import DeepTokens
from sglang_speed.policies.speed import SpeedPolicy


class PopPolicy(SpeedPolicy):
    """The deep tokens are SPEED's; the others are visible in the deep band with KV that is filled in."""

    is_filled = True

    def deep_tokens(
        self, prompt_len: int, scored_from: int | None = None, token_ids: Sequence[int] | None = None
    ) -> DeepTokens:
        return replace(super().deep_tokens(prompt_len, scored_from, token_ids), is_filled=True)
