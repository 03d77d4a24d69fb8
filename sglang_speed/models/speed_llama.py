"""Llama in two depth bands, on SGLang's layers.

Owns the order of the computation: every row through the shallow band, deep rows through the deep band,
and back into place. Which rows are deep, and where their KV lives, is decided before the forward.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from sglang.srt.layers.utils import get_layer_id
from sglang.srt.model_executor.forward_batch_info import ForwardBatch
from sglang.srt.model_executor.forward_context import ForwardContext, forward_context, get_attn_backend
from sglang.srt.models.llama import LlamaForCausalLM, LlamaModel
from torch import Tensor

from sglang_speed.attention.banded import BandedAttnBackend
from sglang_speed.config import SpeedConfig
from sglang_speed.errors import ConfigError
from sglang_speed.host.check import require_host
from sglang_speed.method.bands import DepthBand, depth_bands

Stream = tuple[Tensor, Tensor | None]
"""Hidden states and residual of some rows: [num_rows, hidden_size] each; no residual before the first layer."""


class SpeedLlamaModel(LlamaModel):
    """The decoder: LlamaModel's parameters, run band by band."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self.speed: SpeedConfig = config.speed_config
        self.bands = depth_bands(self.speed)

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        forward_batch: ForwardBatch,
        input_embeds: Tensor | None = None,
        pp_proxy_tensors: None = None,
    ) -> Tensor:
        """Hidden states after the last norm, [num_tokens, hidden_size]; zero in rows that are not deep."""
        assert pp_proxy_tensors is None, "sglang_speed refuses pipeline parallelism at start-up"
        hidden = self.embed_tokens(input_ids) if input_embeds is None else input_embeds
        shallow, *deep = self.bands
        stream = self._run(shallow, positions, (hidden, None), forward_batch)
        if not deep:
            return self._normed(stream)
        return self._run_deep(deep, positions, stream, forward_batch)

    def _run_deep(self, bands: Sequence[DepthBand], positions: Tensor, stream: Stream, batch: ForwardBatch) -> Tensor:
        backend, rows = get_attn_backend(), None
        assert isinstance(backend, BandedAttnBackend), f"{type(backend).__name__} has no deep band"
        out = torch.empty_like(stream[0])
        for band, (own_backend, own) in zip(bands, backend.deep_parts_of(batch), strict=True):
            if own.forward_batch is None:
                return out.zero_()
            if own.rows is not None:
                rows, positions = own.rows, positions[own.rows_below]
                stream = (stream[0][own.rows_below], stream[1][own.rows_below])
            with forward_context(ForwardContext(attn_backend=own_backend)):
                stream = self._run(band, positions, stream, own.forward_batch)
        return self._normed(stream) if rows is None else out.zero_().index_copy_(0, rows, self._normed(stream))

    def _run(self, band: DepthBand, positions: Tensor, stream: Stream, forward_batch: ForwardBatch) -> Stream:
        hidden, residual = stream
        for layer in self.layers[band.first_layer : band.end_layer]:
            hidden, residual = layer(positions, hidden, forward_batch, residual)
        return hidden, residual

    def _normed(self, stream: Stream) -> Tensor:
        hidden, _ = self.norm(*stream)
        return hidden


class SpeedLlamaForCausalLM(LlamaForCausalLM):
    """A served SPEED checkpoint. SGLang sizes the main KV pool from `end_layer`, hence the cutoff there."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        require_host("serving")
        super().__init__(config, *args, **kwargs)
        self.speed: SpeedConfig = config.speed_config

    def _init_model(self, config: Any, quant_config: Any = None, prefix: str = "") -> SpeedLlamaModel:
        return SpeedLlamaModel(config, quant_config=quant_config, prefix=prefix)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> Any:
        """ConfigError for a layer that the model does not have, which SGLang would leave out without a word."""
        if isinstance(weights, list):  # in memory already: nothing is loaded where one is refused
            deque(self._own(weights), maxlen=0)
        return super().load_weights(self._own(weights))

    def _own(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        for name, weight in weights:
            layer = get_layer_id(name)
            if layer is not None and layer >= self.speed.num_layers:
                raise ConfigError(
                    f"sglang_speed: {name} is not one of the {self.speed.num_layers} layers of the running model: send "
                    "the weights of the model that is served"
                )
            yield name, weight

    @property
    def end_layer(self) -> int:
        return self.speed.prefill_layers

    def forward_split_prefill(self, *args: Any, **kwargs: Any) -> None:
        raise AssertionError("a prefill split by layers knows no bands; sglang_speed refuses --enable-pdmux")


EntryClass = SpeedLlamaForCausalLM
