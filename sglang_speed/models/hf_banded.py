"""Decoders of transformers, which SGLang runs where it has none of its own, in depth bands.

They are called with what SGLang's attention needs, and every layer with all of it: so a layer above a cutoff is given
the deep rows of that, over the deep band's batch, and stays where it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from sglang.srt.model_executor.forward_context import get_attn_backend
from torch import Tensor

from sglang_speed.attention.banded import BandedAttnBackend
from sglang_speed.attention.deep_batch import DeepBatch
from sglang_speed.host.adapter import HOST
from sglang_speed.method.bands import DepthBand


class HfBands:
    """The layers above the cutoffs, and the norm, which puts deep rows back among all."""

    def __init__(self, decoder: Any, deep_bands: Sequence[DepthBand]) -> None:
        self._all_rows: Tensor | None = None
        self._top: DeepBatch | None = None
        for number, band in enumerate(deep_bands):
            for index in range(band.first_layer, band.end_layer):
                layer = decoder.layers[index]
                layer.forward = partial(self._run, number, index == band.first_layer, layer.forward)
        decoder.norm.forward = partial(self._end, decoder.norm.forward)

    def _run(
        self, number: int, is_first: bool, layer: Callable[..., Any], hidden: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        """hidden: [1, num_rows, hidden_size], of the band below where the layer is the first of its band."""
        banded = get_attn_backend()
        assert isinstance(banded, BandedAttnBackend), f"{type(banded).__name__} has no deep band"
        backend, batch = banded.deep_parts_of(kwargs["forward_batch"])[number]
        if is_first:
            self._all_rows = hidden if number == 0 else self._all_rows
            self._top = batch
        if batch.forward_batch is None:
            return hidden
        if batch.rows is not None and batch.rows_below is not None:
            hidden = hidden[:, batch.rows_below] if is_first else hidden
            kwargs = {name: _of_rows(name, value, batch.rows) for name, value in kwargs.items()}
        kwargs["forward_batch"] = batch.forward_batch
        with HOST.attention_context(backend, batch.forward_batch):
            return layer(hidden, *args, **kwargs)

    def _end(self, norm: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
        all_rows, top = self._all_rows, self._top
        self._all_rows = self._top = None
        assert all_rows is not None, "the decoder ended without its deep layers"
        assert top is not None, "the decoder ended without its deep layers"
        if top.forward_batch is None:
            return torch.zeros_like(all_rows)
        if top.rows is None:
            return norm(hidden)
        return torch.zeros_like(all_rows).index_copy_(1, top.rows, norm(hidden))


def _of_rows(name: str, value: Any, rows: Tensor) -> Any:
    """What some rows are given of a layer's keyword argument."""
    if name == "position_embeddings" and value is not None:
        return tuple(part.index_select(-2, rows) for part in value)
    return value[..., rows] if name == "position_ids" and value is not None else value
