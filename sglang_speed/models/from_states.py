"""Deep bands that begin with states: what an extend runs in them when its prompts are at hand.

Which tokens of a prompt are deep the queries of its last ones may say, which are kept while the layer below the cutoff
runs. The rows of a band are then gathered, from the states or from what the band below gave, and run in pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from sglang.srt.layers.radix_attention import RadixAttention
from torch import Tensor, nn

from sglang_speed.attention.banded import BandedAttnBackend, DeepAttention
from sglang_speed.attention.deep_batch import DeepBatch
from sglang_speed.attention.from_states import DeepRows
from sglang_speed.attention.selection import scores, select
from sglang_speed.host.base import Stream

Begin = Callable[[Tensor, Any], Stream]
"""What a deep band begins with: of states, [num_rows, hidden_size], in a batch of its own."""
RunBand = Callable[[int, DeepAttention, DeepBatch, Stream, Tensor], Stream]
"""Runs a band, by its number, on some rows and their positions."""


class WindowQueries:
    """The queries of the layer below the cutoff, in the rows that choose."""

    def __init__(self, model: nn.Module, layer: int) -> None:
        attentions = [each for each in _attentions_of(model) if each.layer_id == layer]
        assert attentions, f"{type(model).__name__} has no attention in layer {layer}"
        for each in attentions:
            each.forward = partial(self._keep, each, each.forward)  # transformers' models call it by that name
        self._lines: Tensor | None = None

    def keep(self, rows: DeepRows, device: torch.device) -> None:
        """Keep those of the next forward. rows: what it will compute in the deep bands."""
        self._lengths = [len(request.window) for request in rows.requests]
        self._lines = torch.from_numpy(rows.window).to(device, non_blocking=True) if any(self._lengths) else None

    def select_for(self, rows: DeepRows, backend: BandedAttnBackend, number: int) -> list[Tensor]:
        """Deep positions of the context of a request, in each band."""
        assert backend.from_states is not None, "the main pool has no states"
        assert backend.from_states.selection is not None, "nothing says how tokens are selected"
        request = rows.requests[number]
        first = sum(self._lengths[:number])
        found = scores(
            self._queries[first : first + self._lengths[number]],
            backend.token_to_kv_pool.get_key_buffer(self._layer.layer_id),
            backend.req_to_token_pool.req_to_token[request.row, : request.contexts[0].end].long(),
            self._layer.scaling,
            self._layer.logit_cap,
            backend.from_states.selection.kernel,
        )
        return select(found, request.contexts)

    def _keep(self, layer: Any, attend: Callable[..., Any], q: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self._lines is not None:
            parts = [part for part in (q, kwargs.get("q_rope")) if part is not None]
            by_head = [part.view(len(q), layer.tp_q_head_num, -1)[self._lines] for part in parts]
            self._queries, self._layer, self._lines = torch.cat(by_head, dim=-1), layer, None
        return attend(q, *args, **kwargs)


def _attentions_of(model: Any) -> list[RadixAttention]:
    """transformers' models have them beside their modules."""
    beside = getattr(model, "attention_instances", {}).values()
    return [*(each for each in model.modules() if isinstance(each, RadixAttention)), *beside]


def run_from_states(
    rows: DeepRows,
    backend: BandedAttnBackend,
    queries: WindowQueries | None,
    positions: Tensor,
    begin: Begin,
    run: RunBand,
) -> Tensor:
    """What the deep bands give for `rows.lines`, [num_lines, hidden_size]. positions: of the whole batch."""
    assert backend.from_states is not None, "the main pool has no states"
    store, table = backend.from_states.store, backend.req_to_token_pool.req_to_token

    def select_for(number: int) -> Sequence[Tensor]:
        assert queries is not None, "nothing was kept to select tokens by"
        return queries.select_for(rows, backend, number)

    of_bands = rows.positions(select_for, positions.device)
    below: Stream | None = None
    for band, attention in enumerate(backend.deep):
        places = torch.cat(of_bands[band])
        if below is None:
            found = zip(rows.requests, of_bands[band], strict=True)
            index = torch.cat([table[request.row].index_select(0, each) for request, each in found]).long()
        else:
            index = _among(of_bands[band - 1], of_bands[band])
        given = list[Stream]()
        for piece, batch in zip(rows.pieces[band], rows.batches[band], strict=True):
            own, at = batch.forward_batch, places[piece.rows]
            assert own is not None, "a piece has rows"
            own.positions = at if positions.dim() == 1 else at.expand(len(positions), -1)
            own.input_ids = at.new_zeros(len(at))  # no layer asks for them, and those of earlier chunks are not here
            if len(rows.pieces[band]) > 1:
                attention.plan(batch)
            stream = begin(store.read(index[piece.rows]), own) if below is None else below.of_rows(index[piece.rows])
            out = run(band, attention, batch, stream, own.positions)
            is_top = attention is backend.deep[-1]
            given.append(out.of_rows(rows.wanted_in(piece).to(at.device, non_blocking=True)) if is_top else out)
        below = Stream.joined(given)
    assert below is not None, "a model without deep bands has no rows in them"
    return below.hidden


def _among(below: Sequence[Tensor], above: Sequence[Tensor]) -> Tensor:
    """Places of the rows of a band among those of the band below it; positions request by request."""
    first, places = 0, list[Tensor]()
    for of_band_below, of_band in zip(below, above, strict=True):
        places.append(torch.searchsorted(of_band_below, of_band) + first)
        first += len(of_band_below)
    return torch.cat(places)
