"""The view of a decoder that fills in the KV of its deep layers, from the hidden states at the cutoff.

Every deep layer runs on the same hidden states as far as its attention: its norm, and keys and values by its own
projection. So what differs between architectures is the stock layer's own code here too.
"""

from __future__ import annotations

import copy
from collections import ChainMap
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn

from sglang.srt.layers.linear import QKVParallelLinear
from sglang.srt.layers.quantization.unquant import UnquantizedLinearMethod
from sglang.srt.model_executor.forward_batch_info import ForwardBatch
from torch import Tensor, nn
from torch.nn.functional import linear

from sglang_speed.attention.filling import Filled, FillingBackend
from sglang_speed.host.adapter import HOST
from sglang_speed.host.base import Stream
from sglang_speed.method.bands import DepthBand
from sglang_speed.models.views import Entry, NoEmbedding, copy_with


class FillingView:
    """A decoder whose deep layers keep the keys and values of the hidden states at the cutoff, which pass them as they
    are."""

    def __init__(self, decoder: Any, band: DepthBand) -> None:
        self._entry = Entry()
        layers = [keys_and_values_of(layer) for layer in decoder.layers[band.first_layer :]]
        deep: list[nn.Module] = [_FilledLayer(layer, self._entry) for layer in layers]
        changed: dict[str, nn.Module] = {
            "layers": nn.ModuleList([self._entry] * band.first_layer + deep),
            "embed_tokens": NoEmbedding(self._entry),
            "norm": _AllFilled(),
        }
        self._decoder = copy_with(decoder, changed, band)

    def fill(
        self, stream: Stream, states: Tensor, positions: Tensor, backend: FillingBackend, forward_batch: ForwardBatch
    ) -> None:
        """Fill in the KV of every row of the stream. states: hidden states of these rows, with the residual in them."""
        batch = backend.batch_of(forward_batch)
        self._entry.given = HOST.as_first(stream, states, batch), batch
        try:
            with HOST.attention_context(backend, batch), suppress(Filled):
                self._decoder(input_ids=batch.input_ids, positions=positions, forward_batch=batch)
        finally:
            self._entry.given = None


class _FilledLayer(nn.Module):
    """A layer as far as its attention. It gives what the entry gives, so that the next one begins with that too."""

    def __init__(self, layer: nn.Module, entry: Entry) -> None:
        super().__init__()
        self._layer = [layer]  # registered nowhere: its parameters are the decoder's
        self._entry = entry

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        try:
            self._layer[0](*args, **kwargs)
        except Filled:
            return self._entry()
        raise AssertionError(f"{type(self._layer[0]).__name__} ended without attention")


class _AllFilled(nn.Module):
    """In place of the norm: there is nothing left to do."""

    def forward(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise Filled


def keys_and_values_of(module: Any) -> Any:
    """A layer whose projection leaves out the queries, over the same parameters."""
    changed: dict[str, Any] = {}
    for name, child in module.named_children():
        is_projection = type(child) is QKVParallelLinear
        found = _KeysAndValues(module, name, child) if is_projection else keys_and_values_of(child)
        if found is not child:
            changed[name] = found
    if not changed:
        return module
    view = copy.copy(module)
    vars(view)["_modules"] = ChainMap(changed, module._modules)
    return view


class _KeysAndValues(nn.Module):
    """The projection of a layer's input to keys and values; where the queries would be is anything.

    Only for weights that are plain matrices: others are multiplied as a whole. Where LoRA has put a layer of its own in
    the projection's place, what the adapters add is added here too.
    """

    def __init__(self, owner: nn.Module, name: str, projection: QKVParallelLinear) -> None:
        """name: of the projection, as the owner has it."""
        super().__init__()
        self._owner, self._name = [owner], name
        self._num_query = projection.q_proj_shard_size
        self._size = projection.q_proj_shard_size + projection.kv_proj_shard_size + projection.v_proj_shard_size

    def forward(self, hidden: Tensor) -> Any:
        projection: Any = self._owner[0]._modules[self._name]
        plain = getattr(projection, "base_layer", projection)
        is_plain = isinstance(plain.quant_method, UnquantizedLinearMethod) and len(plain.weight) == self._size
        if not is_plain or getattr(plain, "use_intel_amx_backend", False):
            return projection(hidden)
        multiply = partial(self._multiply, plain.weight, plain.bias, hidden)
        if projection is plain or not projection.lora_active:
            return multiply(), None
        weights = projection.lora_a, projection.lora_b, projection.output_offset, projection.lora_offsets
        return projection.lora_backend.forward_with_base(projection, hidden, multiply, *weights), None

    def _multiply(self, weight: Tensor, bias: Tensor | None, hidden: Tensor) -> Tensor:
        output = hidden.new_empty(*hidden.shape[:-1], self._size)
        output[..., self._num_query :] = linear(
            hidden, weight[self._num_query :], None if bias is None else bias[self._num_query :]
        )
        return output
