"""The view of a decoder that fills in the KV of its deep layers, from the hidden states at the cutoff.

Every deep layer runs on the same hidden states as far as its attention: its norm, and keys and values by its own
projection. So what differs between architectures is the stock layer's own code here too.
"""

from __future__ import annotations

import copy
from contextlib import suppress
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
    changed = {}
    for name, child in module.named_children():
        found = _KeysAndValues(child) if type(child) is QKVParallelLinear else keys_and_values_of(child)
        if found is not child:
            changed[name] = found
    if not changed:
        return module
    view = copy.copy(module)
    vars(view)["_modules"] = {**module._modules, **changed}
    return view


class _KeysAndValues(nn.Module):
    """The projection of a layer's input to keys and values; where the queries would be is anything.

    Only for weights that are plain matrices: others are multiplied as a whole.
    """

    def __init__(self, projection: QKVParallelLinear) -> None:
        super().__init__()
        self._projection = [projection]
        self._num_query = projection.q_proj_shard_size
        self._size = projection.q_proj_shard_size + projection.kv_proj_shard_size + projection.v_proj_shard_size

    def forward(self, hidden: Tensor) -> Any:
        projection = self._projection[0]
        is_plain = isinstance(projection.quant_method, UnquantizedLinearMethod)
        if not is_plain or getattr(projection, "use_intel_amx_backend", False) or len(projection.weight) != self._size:
            return projection(hidden)
        weight, bias = projection.weight, projection.bias
        output = hidden.new_empty(*hidden.shape[:-1], self._size)
        output[..., self._num_query :] = linear(
            hidden, weight[self._num_query :], None if bias is None else bias[self._num_query :]
        )
        return output, None
