"""Which cutoff to take, and why: two rules over measured figures.

Untrained: the lowest cutoff from which on every measured one diverges from full depth by less than a tolerance, two
standard errors included. The default tolerance separates what was measured on SmolLM2-135M (one anchor, a tail of 16,
four kinds of text): 24 of 30 layers diverge by 0.001 to 0.074 nats per token and keep 90 to 99% of the greedy tokens;
22 by 0.158 to 0.493 and 82 to 90% on three of the four. The first can be served without training, the second needs it.

Trained: three quarters of the layers, because that is the cutoff for which a result with training is published (SPEED,
arXiv 2605.06105: Llama-3.1-8B at 24 of 32 layers, 51.2 against 51.4 at full depth), unless something speaks against
it: a model that loses half or more of what the left-out prompt tokens tell it has that much to learn again. The scale
is the divergence where nobody sees them (NO_CONTEXT). The half is a judgement, not a measurement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sglang_speed.layers.cutoffs import NO_CONTEXT
from sglang_speed.layers.statistics import Estimate

DEFAULT_MAX_KL = 0.1
MOST_LOST = 0.5


@dataclass(frozen=True)
class Advice:
    """Prefill layers. untrained: usable as it is; all layers where nothing below is. trained: a lower cutoff to train
    for, or None where the rule gives none.
    """

    untrained: int
    trained: int | None


def advise(divergence: Mapping[int, Estimate], num_layers: int, max_kl: float) -> Advice:
    """divergence: of every measured cutoff, NO_CONTEXT and all layers among them."""
    untrained = num_layers
    for cutoff in sorted(divergence, reverse=True):
        if cutoff == NO_CONTEXT or divergence[cutoff].upper > max_kl:
            break
        untrained = cutoff
    most = MOST_LOST * divergence[NO_CONTEXT].value
    candidates = range(usual_cutoff(num_layers), untrained)
    trainable = [cutoff for cutoff in candidates if cutoff in divergence and divergence[cutoff].value <= most]
    return Advice(untrained, min(trainable, default=None))


def usual_cutoff(num_layers: int) -> int:
    """Three quarters of the layers, rounded down."""
    return max(1, num_layers * 3 // 4)
