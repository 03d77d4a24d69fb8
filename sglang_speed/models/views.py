"""Views of a decoder: copies that share its parameters and have other layers in the places of some.

A view runs the stock decoder's own code: its loop over the layers, and how it hands on hidden states.
"""

from __future__ import annotations

import copy
from collections import ChainMap
from typing import Any

import torch
from sglang.srt.model_executor.forward_batch_info import ForwardBatch
from torch import Tensor, nn

from sglang_speed.host.adapter import HOST
from sglang_speed.host.base import Beside, Stream
from sglang_speed.method.bands import DepthBand


class View:
    """A decoder with the layers of one band; the top one ends with the decoder's norm."""

    def __init__(self, decoder: Any, band: DepthBand, is_top: bool) -> None:
        self._entry, self._end = Entry(), None if is_top else End()
        # the stock loop counts layers from 0: those below the band hand on what the band begins with
        layers = [self._entry] * band.first_layer + list(decoder.layers[band.first_layer : band.end_layer])
        changed: dict[str, nn.Module] = {"layers": nn.ModuleList(layers)}
        if band.first_layer:
            changed["embed_tokens"] = NoEmbedding(self._entry)
        if self._end is not None:
            changed["norm"] = self._end
            self._end.follow(decoder.layers[band.end_layer - 1])
        self._decoder = copy_with(decoder, changed, band)

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


class Entry(nn.Module):
    """In place of a layer below the band."""

    given: tuple[Stream, ForwardBatch] | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        assert self.given is not None, "a deep band begins with what the band below gives"
        return HOST.hand_on(*self.given)


class NoEmbedding(nn.Module):
    """In place of the embedding of a band that begins with hidden states.

    What it gives is of their shape only: decoders scale it in place, and no layer reads it.
    """

    def __init__(self, entry: Entry) -> None:
        super().__init__()
        self._entry = entry

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        assert self._entry.given is not None, "a deep band begins with what the band below gives"
        return torch.empty_like(self._entry.given[0].hidden)


class End(nn.Module):
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


def copy_with(decoder: Any, modules: dict[str, nn.Module], band: DepthBand) -> Any:
    """A module with other children, over the same parameters; it is registered nowhere. Its other children are the
    decoder's whatever they become: LoRA puts layers of its own in their places.

    Where the decoder knows where its layers start, as for pipelines, one layer in place of those below is enough.
    """
    view = copy.copy(decoder)
    vars(view)["_modules"] = ChainMap(modules, decoder._modules)
    for name, layer in (("start_layer", max(0, band.first_layer - 1)), ("end_layer", band.end_layer)):
        for own in (name, f"_{name}"):
            if own in vars(view):
                setattr(view, own, layer)
    return view
