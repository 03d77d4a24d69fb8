"""What is recommended: rules on measured figures. `evidence.py` decides whether there are enough of them.

Both rules apply to each kind of request and to all together, since the mean over all hides what a cutoff breaks.

Untrained: the lowest cutoff such that it and all higher measured ones diverge from full depth by less than a
tolerance, two standard errors included. The default tolerance separates two cutoffs of SmolLM2-135M (one anchor, a tail
of 16, four kinds of text): 24 of 30 layers diverge by 0.001 to 0.074 nats per token and keep 90 to 99% of the greedy
tokens, good enough without training; 22 diverge by 0.158 to 0.493 and keep 82 to 90% on three of the four, and need
training.

The same rule holds for each series of another policy (`policies.py`). Of all that is usable without training, the
setting with the highest ceiling is recommended: one for the memory of prompts at rest, one for the time to the first
token.

Trained: three quarters of the layers, the cutoff with a published result (SPEED, arXiv 2605.06105: Llama-3.1-8B at 24
of 32 layers, 51.2 against 51.4 at full depth), unless the model loses half or more of what the left-out prompt tokens
contribute, which it would have to relearn. The scale is the divergence when no token sees them (NO_CONTEXT). The half
is a judgement, not a measurement.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from sglang_speed.lab.common.statistics import Estimate
from sglang_speed.lab.cutoff.cutoffs import NO_CONTEXT

DEFAULT_MAX_KL = 0.1
MOST_LOST = 0.5

Divergence = Mapping[int, Estimate]
"""By cutoff, including NO_CONTEXT and all layers."""


@dataclass(frozen=True)
class Advice:
    """Prefill layers. untrained: usable without training; all layers if no lower cutoff is. trained: a lower cutoff to
    train for, or None. Both are None if there is too little evidence.
    """

    untrained: int | None
    trained: int | None


@dataclass(frozen=True)
class Usable:
    """A setting that may be served without training, and the most that it gains.

    label: of the setting. at_rest: prompt tokens in the same memory, beside full depth. ttft: of a long cold prompt.
    divergence: from full depth, of all requests together.
    """

    label: str
    at_rest: float
    ttft: float
    divergence: float


def best(usable: Collection[Usable], gain: str) -> Usable | None:
    """The one that gains most of `at_rest` or `ttft`, of equals the closest; None if none gains."""
    gaining = [one for one in usable if getattr(one, gain) > 1]
    return max(gaining, key=lambda one: (getattr(one, gain), -one.divergence), default=None)


def lowest_within(falling: Sequence[Sequence[Estimate]], max_kl: float) -> int | None:
    """Index of the last setting up to which all are within the tolerance; None if the first is not.

    falling: for each setting of a series, by falling cutoff, the divergences of all requests and of each kind.
    """
    within = list(takewhile(lambda each: all(one.upper <= max_kl for one in each), falling))
    return len(within) - 1 if within else None


def advise(divergences: Collection[Divergence], num_layers: int, max_kl: float) -> Advice:
    """divergences: of all requests and of each kind, for the same cutoffs."""
    measured = sorted(set(next(iter(divergences))) - {NO_CONTEXT}, reverse=True)
    lowest = lowest_within([[each[cutoff] for each in divergences] for cutoff in measured], max_kl)
    untrained = num_layers if lowest is None else measured[lowest]
    candidates = (cutoff for cutoff in measured if three_quarters(num_layers) <= cutoff < untrained)
    trainable = [cutoff for cutoff in candidates if not any(_is_lost(each, cutoff) for each in divergences)]
    return Advice(untrained, min(trainable, default=None))


def three_quarters(num_layers: int) -> int:
    """Three quarters of the layers, rounded down."""
    return max(1, num_layers * 3 // 4)


def _is_lost(divergence: Divergence, cutoff: int) -> bool:
    return divergence[cutoff].value > MOST_LOST * divergence[NO_CONTEXT].value
