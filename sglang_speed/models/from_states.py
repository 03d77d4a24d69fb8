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
from sglang_speed.attention.from_states import BandedRequest, DeepRows
from sglang_speed.attention.selection import keep, scores_of_heads, select, summed
from sglang_speed.host.base import Stream
from sglang_speed.kv_pool.states import kv_buffers
from sglang_speed.method.deep_tokens import Context

Begin = Callable[[Tensor, Any], Stream]
"""What a deep band begins with: of states, [num_rows, hidden_size], in a batch of its own."""
RunBand = Callable[[int, DeepAttention, DeepBatch, Stream, Tensor], Stream]
"""Runs a band, by its number, on some rows and their positions."""


class WindowQueries:
    """The queries of some layers in the rows that choose: the last ones of a context."""

    def __init__(self, model: nn.Module, layers: Sequence[int]) -> None:
        for layer in layers:
            attentions = [each for each in attentions_of(model) if each.layer_id == layer]
            assert attentions, f"{type(model).__name__} has no attention in layer {layer}"
            for each in attentions:
                each.forward = partial(self._keep, each, each.forward)  # transformers' models call it by that name
        self._lines: Tensor | None = None
        self._kept: dict[int, list[Tensor]] = {}
        self._attention: dict[int, Any] = {}
        self._lengths: list[int] = []

    def keep(self, rows: DeepRows, device: torch.device) -> None:
        """Keep those of the shallow band of a forward. rows: what it will compute in the deep bands."""
        self._kept, self._lengths = {}, [len(request.window) for request in rows.requests]
        self.keep_lines(torch.from_numpy(rows.window), device)

    def keep_lines(self, lines: Tensor, device: torch.device) -> None:
        """Keep those of some rows of what runs next; none to end that. lines: int64, on the CPU."""
        self._lines = lines.to(device, non_blocking=True) if len(lines) else None

    def scores(self, number: int, layer: int, pool: Any, slots: Tensor, kernel: int) -> Tensor:
        """How much the window of a request, by its number, attends to each place of its context in a layer, for each
        KV head: see `scores_of_heads`. pool: with the layer's keys. slots: of the context there."""
        first, attention = sum(self._lengths[:number]), self._attention[layer]
        queries = torch.cat(self._kept[layer])[first : first + self._lengths[number]]
        return scores_of_heads(
            queries, pool.get_key_buffer(layer), slots, attention.scaling, attention.logit_cap, kernel
        )

    def _keep(self, layer: Any, attend: Callable[..., Any], q: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self._lines is not None:
            parts = [part for part in (q, kwargs.get("q_rope")) if part is not None]
            by_head = [part.view(len(q), layer.tp_q_head_num, -1)[self._lines] for part in parts]
            self._kept.setdefault(layer.layer_id, []).append(torch.cat(by_head, dim=-1))
            self._attention[layer.layer_id] = layer
        return attend(q, *args, **kwargs)


def attentions_of(model: Any) -> list[RadixAttention]:
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
    extend = _Extend(rows, backend, queries, positions)
    below: Stream | None = None
    for band in range(len(backend.deep)):
        below = extend.run_band(band, below, begin, run)
    if queries is not None:
        queries.keep_lines(torch.empty(0), positions.device)
    if backend.thinned is not None and queries is not None:
        for number, request in enumerate(rows.requests):
            if request.ends_context:
                _thin(number, request, backend, queries)
    assert below is not None, "a model without deep bands has no rows in them"
    return below.hidden


class _Extend:
    """One extend whose deep bands begin with states."""

    def __init__(
        self, rows: DeepRows, backend: BandedAttnBackend, queries: WindowQueries | None, positions: Tensor
    ) -> None:
        self._rows, self._backend, self._queries, self._positions = rows, backend, queries, positions
        self._table = backend.req_to_token_pool.req_to_token
        if queries is not None:
            queries.keep_lines(torch.empty(0), positions.device)
        self._of_bands = rows.positions(self._select, positions.device)

    def run_band(self, band: int, below: Stream | None, begin: Begin, run: RunBand) -> Stream:
        """What a band gives: for all of its rows, the top one for those that are wanted. below: what the one below it
        gave, None for states."""
        attention, rows, given = self._backend.deep[band], self._rows, list[Stream]()
        places, index = torch.cat(self._of_bands[band]), self._index_of(band)
        for piece, batch in zip(rows.pieces[band], rows.batches[band], strict=True):
            own, at = batch.forward_batch, places[piece.rows]
            assert own is not None, "a piece has rows"
            own.positions = at if self._positions.dim() == 1 else at.expand(len(self._positions), -1)
            own.input_ids = at.new_zeros(len(at))  # no layer asks for them, and those of earlier chunks are not here
            if len(rows.pieces[band]) > 1:
                attention.plan(batch)
            if self._backend.thinned is not None and self._queries is not None:
                self._queries.keep_lines(rows.window_in(band, piece), at.device)
            stream = self._states(index[piece.rows], own, begin) if below is None else below.of_rows(index[piece.rows])
            out = run(band, attention, batch, stream, own.positions)
            is_top = attention is self._backend.deep[-1]
            given.append(out.of_rows(rows.wanted_in(piece).to(at.device, non_blocking=True)) if is_top else out)
        return Stream.joined(given)

    def _index_of(self, band: int) -> Tensor:
        """Slots of the states of a band's rows in the lowest band, places in the band below it in the others."""
        if band == 0:
            found = zip(self._rows.requests, self._of_bands[0], strict=True)
            return torch.cat([self._table[request.row].index_select(0, each) for request, each in found]).long()
        first, places = 0, list[Tensor]()
        for below, above in zip(self._of_bands[band - 1], self._of_bands[band], strict=True):
            places.append(torch.searchsorted(below, above) + first)
            first += len(below)
        return torch.cat(places)

    def _states(self, slots: Tensor, batch: Any, begin: Begin) -> Stream:
        assert self._backend.from_states is not None, "the main pool has no states"
        return begin(self._backend.from_states.store.read(slots), batch)

    def _select(self, number: int) -> Sequence[Tensor]:
        """Deep positions of the context of a request, in each band."""
        assert self._queries is not None, "nothing was kept to select tokens by"
        request, layer = self._rows.requests[number], self._backend.deep[0].layers.start - 1
        slots = self._table[request.row, : request.contexts[0].end].long()
        found = self._queries.scores(number, layer, self._backend.token_to_kv_pool, slots, _kernel(self._backend))
        return select(summed(found), request.contexts)


def _kernel(backend: BandedAttnBackend) -> int:
    assert backend.from_states is not None, "the main pool has no states"
    assert backend.from_states.selection is not None, "nothing says how tokens are selected"
    return backend.from_states.selection.kernel


def _thin(number: int, request: BandedRequest, backend: BandedAttnBackend, queries: WindowQueries) -> None:
    """Copy what is kept of a context into the band of what stands behind it: in every layer and KV head other tokens,
    in every layer as many, so that they are one sequence there."""
    assert backend.thinned is not None, "no context is thinned"
    assert request.thinned is not None, "no context is thinned"
    assert request.thinned.context is not None, "no context is thinned"
    context, kernel = request.thinned.context, _kernel(backend)
    band = backend.thinned.band
    slots, pool = band.table[request.row, : context.num_deep].long(), band.allocator.get_kvcache()
    main = backend.req_to_token_pool.req_to_token[request.row, : context.end].long()
    sources = [(range(backend.deep[0].layers.start), backend.token_to_kv_pool, main)]
    for each, deep in zip(backend.deep, request.contexts, strict=True):
        own = each.band.table[request.row, : deep.num_deep].long()
        sources.append((each.layers, each.band.allocator.get_kvcache(), own))
    for layers, source, lies in sources:
        for layer in layers:
            if context.num_selected:
                kept = keep(
                    queries.scores(number, layer, source, lies, kernel),
                    len(context.chosen[0]) if len(context.chosen) > 1 else 0,
                    context.num_deep,
                    len(lies),
                )
            else:
                kept = _all_chosen(context, len(lies), lies.device)
            for keys, copies in zip(kv_buffers(source, layer), kv_buffers(pool, layer), strict=True):
                heads = torch.arange(keys.shape[1], device=keys.device)
                copies[slots] = keys[lies[kept.T], heads]


def _all_chosen(context: Context, num_places: int, device: torch.device) -> Tensor:
    """Places of anchors and window in a band with `num_places` tokens of the context, [1, num_kept]."""
    from_end = num_places - context.end
    places = [place if place < context.window_from else place + from_end for run in context.chosen for place in run]
    return torch.tensor([places]).to(device, non_blocking=True)
