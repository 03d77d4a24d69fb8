"""Hidden states at the cutoff, kept beside the shallow KV of their tokens, in the same slots.

They are *pseudo-layers* of the main pool: its last ones, whose keys and values are pieces of a state. So the memory
budget, pages, the radix tree and its eviction see a model with a few more layers, and know nothing of states. Each
tensor-parallel rank keeps its share of a state.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Any

import torch
from sglang.srt.configs.model_config import AttentionArch
from sglang.srt.distributed import tensor_model_parallel_all_gather
from torch import Tensor


def num_state_layers(model_config: Any, num_ranks: int) -> int:
    """Pseudo-layers that a state takes on one rank: `ceil(hidden_size / numbers of KV per token and layer)`."""
    if model_config.attention_arch == AttentionArch.MLA:
        numbers = model_config.kv_lora_rank + model_config.qk_rope_head_dim
    else:
        numbers = model_config.get_num_kv_heads(num_ranks) * (model_config.head_dim + model_config.v_head_dim)
    return -(-_share(model_config.hidden_size, num_ranks) // numbers)


def _share(hidden_size: int, num_ranks: int) -> int:
    assert hidden_size % num_ranks == 0, f"a state of {hidden_size} numbers has no equal shares for {num_ranks} ranks"
    return hidden_size // num_ranks


class StateStore:
    """States by slot of the main pool."""

    def __init__(
        self, pool: Any, first_layer: int, num_layers: int, hidden_size: int, num_ranks: int, rank: int
    ) -> None:
        """pool: its layers from `first_layer` on are pseudo-layers. rank, num_ranks: of tensor parallelism."""
        share = _share(hidden_size, num_ranks)
        self._pool, self._last_layer = pool, first_layer + num_layers - 1
        self._own = slice(rank * share, (rank + 1) * share)
        layers = range(first_layer, first_layer + num_layers)
        buffers = [buffer.view(len(buffer), -1) for layer in layers for buffer in kv_buffers(pool, layer)]
        ends = list(accumulate((buffer.shape[1] for buffer in buffers), initial=0))
        assert share <= ends[-1], f"{num_layers} pseudo-layers hold {ends[-1]} numbers of a state, and it has {share}"
        self._pieces = [
            (slice(start, min(end, share)), buffer[:, : min(end, share) - start])
            for (start, end), buffer in zip(pairwise(ends), buffers, strict=True)
            if start < share
        ]

    def write(self, slots: Tensor, states: Tensor) -> None:
        """slots: [num_tokens], int64. states: [num_tokens, hidden_size], the same on every rank."""
        self._wait_for_loads()
        own = states[:, self._own]
        for piece, buffer in self._pieces:
            buffer.index_copy_(0, slots, own[:, piece])

    def read(self, slots: Tensor) -> Tensor:
        """The states of the tokens in some slots, [num_tokens, hidden_size]."""
        self._wait_for_loads()
        own = torch.cat([buffer.index_select(0, slots) for _, buffer in self._pieces], dim=-1)
        gathered: Tensor = tensor_model_parallel_all_gather(own, dim=-1)
        return gathered

    def _wait_for_loads(self) -> None:
        """States that a batch takes from the host's memory are loaded beside its forward, layer by layer; these layers
        come last. Whoever writes waits too: it may be a later forward that reads them, which waits for nothing."""
        self._pool.get_key_buffer(self._last_layer)


def kv_buffers(pool: Any, layer: int) -> list[Tensor]:
    """What the pool has of a layer, each [num_slots, num_heads, numbers]; latents are one buffer, of which values are a
    part."""
    keys, values = pool.get_key_buffer(layer), pool.get_value_buffer(layer)
    shared = keys.untyped_storage().data_ptr() == values.untyped_storage().data_ptr()
    return [keys] if shared else [keys, values]
