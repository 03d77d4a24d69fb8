"""Means over response tokens, whose errors know that the tokens of one response are not independent."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """A mean per response token. error: its standard error over responses, 0 where there is only one."""

    value: float
    error: float

    @property
    def upper(self) -> float:
        """Two standard errors above the mean."""
        return self.value + 2 * self.error


def per_token(sums: Tensor, num_tokens: Tensor) -> Estimate:
    """The ratio `sum(sums) / sum(num_tokens)`; its error is that of a ratio estimator with responses as units.

    sums: [num_responses], each summed over its response tokens. num_tokens: [num_responses].
    """
    sums, num_tokens = sums.double(), num_tokens.double()
    value = sums.sum() / num_tokens.sum()
    count = len(sums)
    residuals = (sums - value * num_tokens).square().sum()
    error = torch.sqrt(residuals * count / max(1, count - 1)) / num_tokens.sum()
    return Estimate(float(value), float(error))
