"""Any decoder of SGLang's, run band by band.

A band is a view of the stock decoder: a copy of the module that shares its parameters and has only the band's layers.
What would go into the last norm is kept; the view of the next band begins with it. So the embedding, the loop over the
layers and the norm are the stock model's own code, and so is how they hand on hidden states. Which rows are deep, and
where their KV lies, `attention` has planned before the forward.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from sglang.srt.layers.utils import get_layer_id
from sglang.srt.model_executor.forward_batch_info import ForwardBatch
from sglang.srt.model_executor.forward_context import get_attn_backend
from torch import Tensor, nn

from sglang_speed.attention.banded import BandedAttnBackend, DeepAttention
from sglang_speed.attention.deep_batch import DeepBatch
from sglang_speed.attention.from_states import DeepRows
from sglang_speed.attention.lost_anchors import compute_lost_anchors
from sglang_speed.config import SpeedConfig
from sglang_speed.errors import ConfigError
from sglang_speed.host.adapter import HOST
from sglang_speed.host.base import Stream
from sglang_speed.method.bands import DepthBand, depth_bands, thinned_band
from sglang_speed.models.architectures import Architecture
from sglang_speed.models.filling import FillingView
from sglang_speed.models.from_states import WindowQueries, run_from_states
from sglang_speed.models.hf_banded import HfBands
from sglang_speed.models.views import View

NO_NEW_WEIGHTS = (
    "new weights for a quantized model are not proven in both bands: start a server with that checkpoint instead"
)


def run_in_bands(
    model: nn.Module, config: SpeedConfig, architecture: Architecture, num_ahead: int = 0, is_quantized: bool = False
) -> None:
    """Make a stock model run in depth bands, in place; its parameters and their names stay as they are.

    num_ahead: layers that only predict tokens ahead, of which checkpoints have weights too; SGLang leaves them out.
    is_quantized: its weights are loaded once.
    """
    _require_own_layers(model, config.num_layers + num_ahead, is_quantized)
    if config.is_stock:
        return
    decoder, bands = _decoder_of(model, config.num_layers), depth_bands(config)
    queries = None
    if config.selection is not None:
        last = config.prefill_layers - 1
        queries = WindowQueries(model, range(config.num_layers) if config.is_thinned else [last])
    if architecture.is_of_transformers:
        if config.is_thinned:
            raise ConfigError(
                f"sglang_speed: kv_keep is not supported for {architecture.model_type}, whose layers SGLang takes from "
                "transformers; convert the model without --kv-keep"
            )
        HfBands(decoder, bands[1:], queries)
    else:
        forward = BandedForward(decoder, bands, architecture.residual_is_added)
        forward.queries = queries
        if config.is_thinned:
            forward.behind = View(decoder, thinned_band(config), is_top=True)
        if config.fills_deep_layers:
            forward.filling = FillingView(decoder, bands[1])
        decoder.forward = forward


class BandedForward:
    """The forward of a decoder: every row through the shallow band, deep rows through the deep bands, and back.

    filling: what fills in the deep band's KV of all rows, where a policy wants that. queries: by which tokens are
    selected, where a policy does that. behind: all layers, for what stands behind a context where that is thinned.
    """

    filling: FillingView | None = None
    queries: WindowQueries | None = None
    behind: View | None = None

    def __init__(self, decoder: Any, bands: Sequence[DepthBand], residual_is_added: bool) -> None:
        """residual_is_added: whether the hidden states that layers give have what they give as residual in them."""
        self._residual_is_added = residual_is_added
        self._parameters = list(inspect.signature(type(decoder).forward).parameters)[1:]
        self._shallow, *self._deep = [View(decoder, band, is_top=band is bands[-1]) for band in bands]

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Hidden states after the last norm, [num_tokens, hidden_size]; zero in rows that are not deep."""
        given = {**dict(zip(self._parameters, args, strict=False)), **kwargs}
        positions, forward_batch = given["positions"], given["forward_batch"]
        backend = get_attn_backend()
        assert isinstance(backend, BandedAttnBackend), f"{type(backend).__name__} has no deep band"
        step = backend.thinned_step_of(forward_batch)
        if step is not None:
            return self._run_behind(*step, **given)
        compute_lost_anchors(backend, forward_batch, positions, self._run_alone)
        deep_rows = backend.deep_rows_of(forward_batch)
        if deep_rows is not None and self.queries is not None:
            self.queries.keep(deep_rows, positions.device)
        with HOST.attention_context(backend.shallow, forward_batch):
            stream = self._shallow.run(**given)
        if self.filling is not None or backend.from_states is not None:
            self._keep(stream, positions, backend, forward_batch)
        if deep_rows is not None:
            out = self._run_from_states(deep_rows, backend, stream, positions)
            if backend.thinned is not None and deep_rows.behind is not None:
                self._add_behind(out, deep_rows, backend.thinned, given)
            return out
        all_rows, rows = stream.hidden, None
        for view, (attention, batch) in zip(self._deep, backend.deep_parts_of(forward_batch), strict=True):
            if batch.forward_batch is None:
                return torch.zeros_like(all_rows)
            if batch.rows_below is not None:
                stream, positions = stream.of_rows(batch.rows_below), positions[..., batch.rows_below]
            rows = batch.rows
            stream = _run_band(view, attention, batch, stream, positions)
        return stream.hidden if rows is None else torch.zeros_like(all_rows).index_copy_(0, rows, stream.hidden)

    def _run_alone(self, ids: Tensor, positions: Tensor, batch: ForwardBatch) -> None:
        self(input_ids=ids, positions=positions, forward_batch=batch)

    def _keep(self, stream: Stream, positions: Tensor, backend: BandedAttnBackend, forward_batch: ForwardBatch) -> None:
        """Fill in the deep band's KV of all rows, or keep their states, or both."""
        states = stream.hidden
        if stream.residual is not None and not self._residual_is_added:
            states = states + stream.residual
        if self.filling is not None:
            assert backend.filling is not None, "the deep band has no room for what is filled in"
            self.filling.fill(stream, states, positions, backend.filling, forward_batch)
        if backend.from_states is not None:
            backend.from_states.store.write(forward_batch.out_cache_loc, states)

    def _run_behind(self, attention: DeepAttention, batch: DeepBatch, **given: Any) -> Tensor:
        """Hidden states of rows that stand behind thinned contexts, all of a batch."""
        assert self.behind is not None, "no context is thinned"
        given |= {"forward_batch": batch.forward_batch}
        with attention.running(batch):
            return self.behind.run(**given).hidden

    def _add_behind(self, out: Tensor, rows: DeepRows, attention: DeepAttention, given: dict[str, Any]) -> None:
        """Run the rows of an extend that stand behind thinned contexts, and put what they give among all."""
        assert rows.behind is not None, "nothing is planned behind contexts"
        batch, lines = rows.behind.forward_batch, rows.lines_behind.to(out.device, non_blocking=True)
        if batch is None:
            return
        own = {name: given[name][lines] for name in ("input_ids", "input_embeds") if given.get(name) is not None}
        own["positions"] = given["positions"][..., lines]
        batch.positions, batch.input_ids = own["positions"], own.get("input_ids", batch.input_ids)
        out.index_copy_(0, lines, self._run_behind(attention, rows.behind, **{**given, **own}))

    def _run_from_states(self, rows: DeepRows, backend: BandedAttnBackend, stream: Stream, positions: Tensor) -> Tensor:
        """stream: what the shallow band gave, of all rows of the batch."""
        out = torch.zeros_like(stream.hidden)
        if not rows.pieces[0]:
            return out

        def run(band: int, attention: DeepAttention, batch: DeepBatch, given: Stream, at: Tensor) -> Stream:
            return _run_band(self._deep[band], attention, batch, given, at)

        def begin(states: Tensor, batch: Any) -> Stream:
            first = HOST.as_first(stream, states, batch)
            return first if first.beside is None else first._replace(beside=(None,) * len(first.beside))

        given = run_from_states(rows, backend, self.queries, positions, begin, run)
        return out.index_copy_(0, rows.lines.to(out.device, non_blocking=True), given)


def _run_band(view: View, attention: DeepAttention, batch: DeepBatch, stream: Stream, positions: Tensor) -> Stream:
    """What a band gives for its rows."""
    assert batch.forward_batch is not None, "a band without rows is not run"
    with attention.running(batch):
        return view.go_on(stream, positions, batch.forward_batch)


def _decoder_of(model: nn.Module, num_layers: int) -> Any:
    """The one module of a model that embeds, loops over all layers and norms."""
    found = [module for module in model.modules() if _is_decoder(module, num_layers)]
    assert len(found) == 1, f"{type(model).__name__} has {len(found)} decoders of {num_layers} layers"
    return found[0]


def _is_decoder(module: nn.Module, num_layers: int) -> bool:
    layers = getattr(module, "layers", None)
    has_ends = hasattr(module, "embed_tokens") and hasattr(module, "norm")
    return has_ends and isinstance(layers, nn.ModuleList) and len(layers) == num_layers


def _require_own_layers(model: Any, num_layers: int, loads_once: bool) -> None:
    """Let the model raise ConfigError for weights of a layer that it has not; SGLang leaves them out silently."""
    load: Callable[..., Any] = model.load_weights
    is_loaded = False

    def load_own(weights: Iterable[tuple[str, Tensor]], *args: Any, **kwargs: Any) -> Any:
        nonlocal is_loaded
        if loads_once and is_loaded:
            raise ConfigError(f"sglang_speed: {NO_NEW_WEIGHTS}")
        is_loaded = True
        if isinstance(weights, list):  # in memory already: nothing is loaded where one is refused
            deque(own(weights), maxlen=0)
        return load(own(weights), *args, **kwargs)

    def own(weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        for name, weight in weights:
            layer = get_layer_id(name)
            if layer is not None and layer >= num_layers:
                raise ConfigError(
                    f"sglang_speed: {name} is not one of the {num_layers} layers of the running model: send the "
                    "weights of the model that is served"
                )
            yield name, weight

    model.load_weights = load_own
