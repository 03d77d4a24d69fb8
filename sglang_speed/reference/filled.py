"""Keys and values that a deep layer has of rows that it does not compute: from the hidden states at the cutoff.

They stand where transformers' attention looks for a cache.
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor, nn


class _Kept(Exception):
    """A layer's keys and values are known; the rest of the layer is not run."""


class _Keeping:
    """In place of a cache: keeps what a layer would put there, and ends the layer."""

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> NoReturn:
        self.kept = keys, values
        raise _Kept


class FilledRows:
    """In place of a cache: a layer that computes some rows sees its own keys and values there, filled ones elsewhere.

    rows: [num_deep], those that are computed.
    """

    def __init__(self, layer: nn.Module, hidden: Tensor, kwargs: dict[str, Any], rows: Tensor) -> None:
        """hidden: [batch, num_rows, hidden_size], of all rows at the cutoff. kwargs: what the layer gets for them."""
        keeping = _Keeping()
        try:
            layer.forward(hidden, **{**kwargs, "past_key_values": keeping})
        except _Kept:
            self._filled, self._rows = keeping.kept, rows

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """keys, values: [batch, num_kv_heads, num_deep, head_dim]. Returns those of all rows."""
        keys, values = (
            filled.index_copy(-2, self._rows, own) for filled, own in zip(self._filled, (keys, values), strict=True)
        )
        return keys, values


def mask_of_rows(mask: Tensor | None, rows: Tensor, num_rows: int) -> Tensor:
    """What some rows see of all `num_rows`, of a layer's mask; None is one in which each sees those before it."""
    if mask is None:
        mask = torch.ones(num_rows, num_rows, dtype=torch.bool, device=rows.device).tril()[None, None]
    return mask[..., rows, :]
