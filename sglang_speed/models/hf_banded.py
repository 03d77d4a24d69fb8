"""Decoders of transformers, which SGLang runs where it has none of its own, in depth bands.

They are called with what SGLang's attention needs, and every layer with all of it: so a layer above a cutoff is given
the deep rows of that, over the deep band's batch, and stays where it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from typing import Any

import torch
from sglang.srt.model_executor.forward_batch_info import ForwardBatch
from sglang.srt.model_executor.forward_context import get_attn_backend
from torch import Tensor

from sglang_speed.attention.banded import BandedAttnBackend, DeepAttention
from sglang_speed.attention.deep_batch import DeepBatch
from sglang_speed.attention.filling import Filled, FillingBackend
from sglang_speed.attention.from_states import DeepRows
from sglang_speed.attention.lost_anchors import compute_lost_anchors
from sglang_speed.host.adapter import HOST
from sglang_speed.host.base import Stream
from sglang_speed.method.bands import DepthBand
from sglang_speed.models.from_states import WindowQueries, run_from_states


class HfBands:
    """The layers above the cutoffs, and the norm, which puts deep rows back among all."""

    def __init__(self, decoder: Any, deep_bands: Sequence[DepthBand], queries: WindowQueries | None) -> None:
        """queries: by which tokens are selected, where a policy does that."""
        self._all_rows: Tensor | None = None
        self._top: DeepBatch | None = None
        self._from_states: tuple[DeepRows, Tensor] | None = None
        self._queries = queries
        self._rotary = decoder.rotary_emb
        self._layers = [[decoder.layers[i].forward for i in range(b.first_layer, b.end_layer)] for b in deep_bands]
        for number, band in enumerate(deep_bands):
            for index in range(band.first_layer, band.end_layer):
                layer = decoder.layers[index]
                layer.forward = partial(self._run, number, index == band.first_layer, layer.forward)
        first = decoder.layers[deep_bands[0].first_layer - 1]
        first.forward = partial(self._before, first.forward)
        decoder.norm.forward = partial(self._end, decoder.norm.forward)
        decoder.forward = partial(self._begin, decoder.forward)

    def _begin(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The decoder, and in front of it what anchors of the batch are lost."""

        def run(ids: Tensor, positions: Tensor, batch: ForwardBatch) -> None:
            own = {"input_ids": ids[None], "inputs_embeds": None, "position_ids": positions, "forward_batch": batch}
            forward(*args, **{**kwargs, **own})

        compute_lost_anchors(_banded(), kwargs["forward_batch"], kwargs["position_ids"], run)
        return forward(*args, **kwargs)

    def _before(self, layer: Callable[..., Any], hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The layer below the lowest cutoff, whose queries select tokens."""
        rows = _banded().deep_rows_of(kwargs["forward_batch"])
        if rows is not None and self._queries is not None:
            self._queries.keep(rows, hidden.device)
        return layer(hidden, *args, **kwargs)

    def _run(
        self, number: int, is_first: bool, layer: Callable[..., Any], hidden: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        """hidden: [1, num_rows, hidden_size], of the band below where the layer is the first of its band."""
        banded = _banded()
        rows = banded.deep_rows_of(kwargs["forward_batch"])
        if is_first and number == 0:
            self._all_rows = hidden
            if banded.filling is not None:
                self._fill(banded.filling, hidden, *args, **kwargs)
            if banded.from_states is not None:
                banded.from_states.store.write(kwargs["forward_batch"].out_cache_loc, hidden[0])
            if rows is not None:
                self._from_states = rows, self._run_from_states(rows, banded, hidden, *args, **kwargs)
        if rows is not None:
            return hidden
        attention, batch = banded.deep_parts_of(kwargs["forward_batch"])[number]
        if is_first:
            self._top = batch
        if batch.forward_batch is None:
            return hidden
        if is_first and batch.rows_below is not None:
            hidden = hidden[:, batch.rows_below]
        return _on_rows(layer, attention, batch, hidden, *args, **kwargs)

    def _run_from_states(
        self, rows: DeepRows, banded: BandedAttnBackend, hidden: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        """What the deep layers give for `rows.lines`, [num_lines, hidden_size]."""
        if not rows.pieces[0]:
            return hidden[0, :0]

        def begin(states: Tensor, batch: Any) -> Stream:
            return Stream(states, None)

        def run(band: int, attention: DeepAttention, batch: DeepBatch, given: Stream, at: Tensor) -> Stream:
            of_rows = {"position_ids": at[None], "position_embeddings": self._rotary(given.hidden[None], at[None])}
            changed = {name: of_rows[name] for name in of_rows if kwargs.get(name) is not None}
            out = given.hidden[None]
            for layer in self._layers[band]:
                out = _on_rows(layer, attention, batch, out, *args, **{**kwargs, **changed})
            return Stream(out[0], None)

        return run_from_states(rows, banded, self._queries, kwargs["position_ids"][0], begin, run)

    def _fill(self, backend: FillingBackend, hidden: Tensor, *args: Any, **kwargs: Any) -> None:
        """Let the deep layers keep the keys and values of all rows, as hidden states enter the first of them."""
        kwargs["forward_batch"] = backend.batch_of(kwargs["forward_batch"])
        for layer in chain(*self._layers):
            with HOST.attention_context(backend, kwargs["forward_batch"]), suppress(Filled):
                layer(hidden, *args, **kwargs)

    def _end(self, norm: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
        all_rows, top, from_states = self._all_rows, self._top, self._from_states
        self._all_rows = self._top = self._from_states = None
        assert all_rows is not None, "the decoder ended without its deep layers"
        if from_states is not None:
            rows, given = from_states
            lines = rows.lines.to(hidden.device, non_blocking=True)
            return torch.zeros_like(all_rows).index_copy_(1, lines, norm(given[None]))
        assert top is not None, "the decoder ended without its deep layers"
        if top.forward_batch is None:
            return torch.zeros_like(all_rows)
        if top.rows is None:
            return norm(hidden)
        return torch.zeros_like(all_rows).index_copy_(1, top.rows, norm(hidden))


def _banded() -> BandedAttnBackend:
    banded = get_attn_backend()
    assert isinstance(banded, BandedAttnBackend), f"{type(banded).__name__} has no deep band"
    return banded


def _on_rows(
    layer: Callable[..., Any], attention: DeepAttention, batch: DeepBatch, hidden: Tensor, *args: Any, **kwargs: Any
) -> Any:
    """Run a layer on the rows of a deep batch, which `hidden` has; the other arguments are of all rows where the batch
    says which of them are its own."""
    if batch.rows is not None:
        kwargs = {name: _of_rows(name, value, batch.rows) for name, value in kwargs.items()}
    assert batch.forward_batch is not None, "a band without rows is not run"
    kwargs["forward_batch"] = batch.forward_batch
    with attention.running(batch):
        return layer(hidden, *args, **kwargs)


def _of_rows(name: str, value: Any, rows: Tensor) -> Any:
    """What some rows are given of a layer's keyword argument."""
    if name == "position_embeddings" and value is not None:
        return tuple(part.index_select(-2, rows) for part in value)
    return value[..., rows] if name == "position_ids" and value is not None else value
