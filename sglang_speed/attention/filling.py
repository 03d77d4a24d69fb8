"""KV that is filled in: a deep layer's keys and values of tokens that it does not compute.

A layer is run as far as its attention, which keeps the keys and values and ends the layer there.
"""

from __future__ import annotations

import copy
from typing import Any, NoReturn

from sglang.srt.layers.attention.base_attn_backend import AttentionBackend
from sglang.srt.mem_cache.memory_pool import KVWriteLoc
from sglang.srt.model_executor.forward_batch_info import ForwardBatch
from torch import Tensor

from sglang_speed.kv_pool.deep_band import DeepBand


class Filled(Exception):
    """A layer's keys and values are where they belong; the rest of the layer is not run."""


class FillingBackend(AttentionBackend):
    """Attention of which only the keys and values are wanted. Raises Filled."""

    def __init__(self, band: DeepBand) -> None:
        super().__init__()
        self.token_to_kv_pool = band.allocator.get_kvcache()
        self._first_filled = band.first_filled

    def batch_of(self, forward_batch: ForwardBatch) -> ForwardBatch:
        """The same rows, whose keys and values go to what belongs to their slots of the main pool."""
        assert self._first_filled is not None, "this band fills nothing in"
        self._wait_for_loads()
        batch = copy.copy(forward_batch)
        batch.out_cache_loc = forward_batch.out_cache_loc + self._first_filled
        return batch

    def _wait_for_loads(self) -> None:
        """What a batch takes from the host's memory is loaded beside its forward. Whoever fills in waits for it:
        a chunk without deep rows does not read it, and the next one waits for nothing."""
        pool = self.token_to_kv_pool
        pool.get_key_buffer(pool.start_layer + pool.layer_num - 1)

    def forward(
        self,
        q: Tensor,
        k: Tensor | None,
        v: Tensor | None,
        layer: Any,
        forward_batch: ForwardBatch,
        save_kv_cache: bool = True,
        **kwargs: Any,
    ) -> NoReturn:
        if save_kv_cache:
            self.token_to_kv_pool.set_kv_buffer(layer, KVWriteLoc(forward_batch.out_cache_loc, None), k, v)
        raise Filled
