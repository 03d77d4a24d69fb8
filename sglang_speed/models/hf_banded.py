"""Decoders of transformers, which SGLang runs where it has none of its own, in depth bands.

They are called with what SGLang's attention needs, and every layer with all of it: so a layer above a cutoff is given
the deep rows of that, over the deep band's batch, and stays where it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from sglang.srt.model_executor.forward_context import get_attn_backend
from torch import Tensor

from sglang_speed.attention.banded import BandedAttnBackend
from sglang_speed.attention.deep_batch import DeepBatch
from sglang_speed.attention.filling import Filled, FillingBackend
from sglang_speed.host.adapter import HOST
from sglang_speed.method.bands import DepthBand


class HfBands:
    """The layers above the cutoffs, and the norm, which puts deep rows back among all."""

    def __init__(self, decoder: Any, deep_bands: Sequence[DepthBand]) -> None:
        self._all_rows: Tensor | None = None
        self._top: DeepBatch | None = None
        self._layers = [layer.forward for layer in decoder.layers[deep_bands[0].first_layer :]]
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
        attention, batch = banded.deep_parts_of(kwargs["forward_batch"])[number]
        if is_first:
            self._all_rows = hidden if number == 0 else self._all_rows
            self._top = batch
            if banded.filling is not None:
                self._fill(banded.filling, hidden, *args, **kwargs)
            if batch.anchors is not None:
                anchors = hidden[:, batch.anchors.rows_below]
                for each in self._layers:
                    anchors = _on_rows(each, attention.backend, batch.anchors, anchors, *args, **kwargs)
                attention.plan(batch)
        if batch.forward_batch is None:
            return hidden
        if is_first and batch.rows_below is not None:
            hidden = hidden[:, batch.rows_below]
        return _on_rows(layer, attention.backend, batch, hidden, *args, **kwargs)

    def _fill(self, backend: FillingBackend, hidden: Tensor, *args: Any, **kwargs: Any) -> None:
        """Let the deep layers keep the keys and values of all rows, as hidden states enter the first of them."""
        kwargs["forward_batch"] = backend.batch_of(kwargs["forward_batch"])
        for layer in self._layers:
            with HOST.attention_context(backend, kwargs["forward_batch"]), suppress(Filled):
                layer(hidden, *args, **kwargs)

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


def _on_rows(
    layer: Callable[..., Any], backend: Any, batch: DeepBatch, hidden: Tensor, *args: Any, **kwargs: Any
) -> Any:
    """Run a layer on the rows of a deep batch, which `hidden` has; the other arguments are of all rows."""
    if batch.rows is not None:
        kwargs = {name: _of_rows(name, value, batch.rows) for name, value in kwargs.items()}
    assert batch.forward_batch is not None, "a band without rows is not run"
    kwargs["forward_batch"] = batch.forward_batch
    with HOST.attention_context(backend, batch.forward_batch):
        return layer(hidden, *args, **kwargs)


def _of_rows(name: str, value: Any, rows: Tensor) -> Any:
    """What some rows are given of a layer's keyword argument."""
    if name == "position_embeddings" and value is not None:
        return tuple(part.index_select(-2, rows) for part in value)
    return value[..., rows] if name == "position_ids" and value is not None else value
