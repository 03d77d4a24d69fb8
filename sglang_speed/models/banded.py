"""Any decoder of SGLang's, run band by band.

A band is a view of the stock decoder: a copy of the module that shares its parameters and has only the band's layers.
What would go into the last norm is kept; the view of the next band begins with it. So the embedding, the loop over the
layers and the norm are the stock model's own code, and so is how they hand on hidden states. Which rows are deep, and
where their KV lies, `attention` has planned before the forward.
"""

from __future__ import annotations

import copy
import inspect
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from sglang.srt.layers.utils import get_layer_id
from sglang.srt.model_executor.forward_batch_info import ForwardBatch
from sglang.srt.model_executor.forward_context import get_attn_backend
from torch import Tensor, nn

from sglang_speed.attention.banded import BandedAttnBackend
from sglang_speed.config import SpeedConfig
from sglang_speed.errors import ConfigError
from sglang_speed.host.adapter import HOST
from sglang_speed.host.base import Beside, Stream
from sglang_speed.method.bands import DepthBand, depth_bands
from sglang_speed.models.hf_banded import HfBands


def run_in_bands(model: nn.Module, config: SpeedConfig, num_ahead: int = 0) -> None:
    """Make a stock model run in depth bands, in place; its parameters and their names stay as they are.

    num_ahead: layers that only predict tokens ahead, of which checkpoints have weights too; SGLang leaves them out.
    """
    _require_own_layers(model, config.num_layers + num_ahead)
    if config.is_stock:
        return
    decoder, bands = _decoder_of(model, config.num_layers), depth_bands(config)
    if type(decoder).__module__.startswith("transformers."):
        HfBands(decoder, bands[1:])
    else:
        decoder.forward = BandedForward(decoder, bands)


class BandedForward:
    """The forward of a decoder: every row through the shallow band, deep rows through the deep bands, and back."""

    def __init__(self, decoder: Any, bands: Sequence[DepthBand]) -> None:
        self._parameters = list(inspect.signature(type(decoder).forward).parameters)[1:]
        self._shallow, *self._deep = [_View(decoder, band, is_top=band is bands[-1]) for band in bands]

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Hidden states after the last norm, [num_tokens, hidden_size]; zero in rows that are not deep."""
        given = {**dict(zip(self._parameters, args, strict=False)), **kwargs}
        positions, forward_batch = given["positions"], given["forward_batch"]
        backend = get_attn_backend()
        assert isinstance(backend, BandedAttnBackend), f"{type(backend).__name__} has no deep band"
        with HOST.attention_context(backend.shallow, forward_batch):
            stream = self._shallow.run(**given)
        all_rows, rows = stream.hidden, None
        for view, (own_backend, batch) in zip(self._deep, backend.deep_parts_of(forward_batch), strict=True):
            if batch.forward_batch is None:
                return torch.zeros_like(all_rows)
            if batch.rows is not None and batch.rows_below is not None:
                rows, positions = batch.rows, positions[..., batch.rows_below]
                stream = stream.of_rows(batch.rows_below)
            with HOST.attention_context(own_backend, batch.forward_batch):
                stream = view.go_on(stream, positions, batch.forward_batch)
        return stream.hidden if rows is None else torch.zeros_like(all_rows).index_copy_(0, rows, stream.hidden)


class _View:
    """A decoder with the layers of one band; the top one ends with the decoder's norm."""

    def __init__(self, decoder: Any, band: DepthBand, is_top: bool) -> None:
        self._entry, self._end = _Entry(), None if is_top else _End()
        # the stock loop counts layers from 0: those below the band hand on what the band begins with
        layers = [self._entry] * band.first_layer + list(decoder.layers[band.first_layer : band.end_layer])
        changed: dict[str, nn.Module] = {"layers": nn.ModuleList(layers)}
        if band.first_layer:
            changed["embed_tokens"] = _NoEmbedding(self._entry)
        if self._end is not None:
            changed["norm"] = self._end
            self._end.follow(decoder.layers[band.end_layer - 1])
        self._decoder = _copy_with(decoder, changed, band)

    def run(self, **given: Any) -> Stream:
        """Run from the beginning. What the top band gives is normed, and has no residual."""
        out = self._decoder(**given)
        return Stream(out, None) if self._end is None else self._end.taken()

    def go_on(self, stream: Stream, positions: Tensor, batch: ForwardBatch) -> Stream:
        """Run on what the band below gives, for some rows of it."""
        self._entry.given = stream, batch
        try:
            return self.run(input_ids=batch.input_ids, positions=positions, forward_batch=batch)
        finally:
            self._entry.given = None


class _Entry(nn.Module):
    """In place of a layer below the band."""

    given: tuple[Stream, ForwardBatch] | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        assert self.given is not None, "a deep band begins with what the band below gives"
        return HOST.hand_on(*self.given)


class _NoEmbedding(nn.Module):
    """In place of the embedding of a band that begins with hidden states.

    What it gives is of their shape only: decoders scale it in place, and no layer reads it.
    """

    def __init__(self, entry: _Entry) -> None:
        super().__init__()
        self._entry = entry

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        assert self._entry.given is not None, "a deep band begins with what the band below gives"
        return torch.empty_like(self._entry.given[0].hidden)


class _End(nn.Module):
    """In place of the norm of a band that is not the top one: keeps what goes into it until it is taken."""

    def __init__(self) -> None:
        super().__init__()
        self._given: Stream | None = None
        self._beside: Beside = None

    def follow(self, layer: nn.Module) -> None:
        """`layer` is the last one before this norm."""
        HOST.finish_layer(layer)
        layer.register_forward_hook(self._keep_beside)

    def forward(self, hidden: Tensor, residual: Tensor | None = None, **kwargs: Any) -> Any:
        self._given = Stream(hidden, residual, self._beside)
        return hidden if residual is None else (hidden, residual)

    def taken(self) -> Stream:
        given, self._given, self._beside = self._given, None, None
        assert given is not None, "the decoder ended without its norm"
        return given

    def _keep_beside(self, layer: nn.Module, args: Any, out: Any) -> None:
        self._beside = tuple(out[1:]) if isinstance(out, tuple) else None


def _copy_with(decoder: Any, modules: dict[str, nn.Module], band: DepthBand) -> Any:
    """A module with other children, over the same parameters; it is registered nowhere.

    Where the decoder knows where its layers start, as for pipelines, one layer in place of those below is enough.
    """
    view = copy.copy(decoder)
    vars(view)["_modules"] = {**decoder._modules, **modules}
    for name, layer in (("start_layer", max(0, band.first_layer - 1)), ("end_layer", band.end_layer)):
        for own in (name, f"_{name}"):
            if own in vars(view):
                setattr(view, own, layer)
    return view


def _decoder_of(model: nn.Module, num_layers: int) -> Any:
    """The one module of a model that embeds, loops over all layers and norms."""
    found = [module for module in model.modules() if _is_decoder(module, num_layers)]
    assert len(found) == 1, f"{type(model).__name__} has {len(found)} decoders of {num_layers} layers"
    return found[0]


def _is_decoder(module: nn.Module, num_layers: int) -> bool:
    layers = getattr(module, "layers", None)
    has_ends = hasattr(module, "embed_tokens") and hasattr(module, "norm")
    return has_ends and isinstance(layers, nn.ModuleList) and len(layers) == num_layers


def _require_own_layers(model: Any, num_layers: int) -> None:
    """Let the model raise ConfigError for weights of a layer that it has not; SGLang leaves them out silently."""
    load: Callable[..., Any] = model.load_weights

    def load_own(weights: Iterable[tuple[str, Tensor]], *args: Any, **kwargs: Any) -> Any:
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
