"""Estimates with standard errors from the values of items."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """stderr: standard error; None for a single item."""

    value: float
    stderr: float | None

    @property
    def upper(self) -> float:
        """Two standard errors above the value."""
        return self.value + 2 * (self.stderr or 0.0)


def ratio(values: Sequence[float], weights: Sequence[float] | None = None, drawn_together: int = 1) -> Estimate:
    """Sum of values over sum of weights, e.g. log-probabilities of responses per token; the mean without weights.

    drawn_together: group size of neighbours that are not independent; only their sums are, as for the tokens of one
    response. The error is that of the linearized ratio (Cochran, Sampling Techniques, 6.3), for a mean the usual one.
    """
    weights = sums([1.0] * len(values) if weights is None else weights, drawn_together)
    values = sums(values, drawn_together)
    total, num = sum(weights), len(values)
    value = sum(values) / total
    if num < 2:
        return Estimate(value, None)
    squares = sum((each - value * weight) ** 2 for each, weight in zip(values, weights, strict=True))
    return Estimate(value, math.sqrt(num / (num - 1) * squares) / total)


def difference(
    values: Sequence[float],
    baseline: Sequence[float],
    weights: Sequence[float] | None = None,
    drawn_together: int = 1,
) -> Estimate:
    """Mean paired difference to the same items in `baseline`: items that are hard for both add no error."""
    return ratio([value - base for value, base in zip(values, baseline, strict=True)], weights, drawn_together)


def sums(values: Sequence[float], num: int) -> list[float]:
    """Sums of groups of `num` neighbours; the last group may be smaller."""
    return [sum(values[start : start + num]) for start in range(0, len(values), num)]
