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
        batch = copy.copy(forward_batch)
        batch.out_cache_loc = forward_batch.out_cache_loc + self._first_filled
        return batch

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
