"""Attention on a CPU: only new rows attend, keys are read where they lie, and heads that share keys form one product.

Owns no KV: it reads the table and the pool that the runner had when the backend was built, whichever they are. What it
does not do itself (sliding windows, cross attention, encoders, unequal head sizes) SGLang's own class does.

A request's keys are cut into pieces. Attention over a piece gives an output and a log-sum-exp, and pieces are merged by
softmax over the latter; so no mask is ever built, and memory does not grow with the square of a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
from sglang.srt.layers.radix_attention import AttentionType, RadixAttention
from sglang.srt.mem_cache.memory_pool import KVWriteLoc
from torch import Tensor

if TYPE_CHECKING:
    from sglang.srt.model_executor.forward_batch_info import ForwardBatch

MIN_RUN = 256
"""Slots in a row from which a run is read in place; shorter ones are gathered, which costs less than one more merge."""

Slots = slice | Tensor
"""Slots of a pool: a run of them, or their indices [num_slots]."""


@dataclass(frozen=True)
class RequestPlan:
    """What one request's query rows see.

    rows: their place in the batch.
    visible: slots that every one of the rows sees, in any order.
    causal: slots of the rows themselves, in order, row by row; None where `visible` has them.
    """

    rows: slice
    visible: tuple[Slots, ...]
    causal: Slots | None


class CpuAttnBackend(TorchNativeAttnBackend):
    """A drop-in for SGLang's torch_native backend with the same results."""

    def __init__(self, model_runner: Any) -> None:
        super().__init__(model_runner)
        self.plans: list[RequestPlan] = []

    def init_forward_metadata(self, forward_batch: ForwardBatch) -> None:
        super().init_forward_metadata(forward_batch)
        self.plans = []
        if forward_batch.forward_mode.is_idle():
            return
        seq_lens = forward_batch.seq_lens.tolist()
        new_lens = [1] * len(seq_lens)
        if not forward_batch.forward_mode.is_decode():
            new_lens = forward_batch.extend_seq_lens.tolist()
        start = 0
        # numpy, on the table's own memory: a step plans every request, and at this size tensor operations cost more
        table = self.req_to_token_pool.req_to_token.numpy()
        table_rows = forward_batch.req_pool_indices.tolist()
        for table_row, seq_len, new_len in zip(table_rows, seq_lens, new_lens, strict=True):
            self.plans.append(plan_request(table[table_row, :seq_len], new_len, start))
            start += new_len

    def forward_extend(
        self,
        q: Tensor,
        k: Tensor | None,
        v: Tensor | None,
        layer: RadixAttention,
        forward_batch: ForwardBatch,
        save_kv_cache: bool = True,
    ) -> Tensor:
        if not _is_causal_decoder(layer, forward_batch):
            stock: Tensor = super().forward_extend(q, k, v, layer, forward_batch, save_kv_cache)
            return stock
        return self._attend(q, k, v, layer, forward_batch, save_kv_cache)

    def forward_decode(
        self,
        q: Tensor,
        k: Tensor | None,
        v: Tensor | None,
        layer: RadixAttention,
        forward_batch: ForwardBatch,
        save_kv_cache: bool = True,
    ) -> Tensor:
        if not _is_causal_decoder(layer, forward_batch):
            stock: Tensor = super().forward_decode(q, k, v, layer, forward_batch, save_kv_cache)
            return stock
        return self._attend(q, k, v, layer, forward_batch, save_kv_cache)

    def _attend(
        self,
        q: Tensor,
        k: Tensor | None,
        v: Tensor | None,
        layer: RadixAttention,
        forward_batch: ForwardBatch,
        save_kv_cache: bool,
    ) -> Tensor:
        """q: [num_rows, num_heads * head_dim]; returns the same shape."""
        if save_kv_cache and k is not None and v is not None:
            self.token_to_kv_pool.set_kv_buffer(layer, KVWriteLoc(forward_batch.out_cache_loc, None), k, v)
        keys = self.token_to_kv_pool.get_key_buffer(layer.layer_id)
        values = self.token_to_kv_pool.get_value_buffer(layer.layer_id)
        query = q.view(-1, layer.tp_k_head_num, layer.tp_q_head_num // layer.tp_k_head_num, layer.qk_head_dim)
        output = torch.empty_like(query)
        for plan in self.plans:
            output[plan.rows] = attend(query[plan.rows], keys, values, plan, layer.scaling)
        return output.view(q.shape)


def plan_request(slots: np.ndarray, new_len: int, first_row: int) -> RequestPlan:
    """Cut a request of `len(slots)` tokens, the last `new_len` of them new, into pieces. slots: [num_slots], int32."""
    rows = slice(first_row, first_row + new_len)
    if new_len == 1:
        return RequestPlan(rows, split_runs(slots), None)
    num_cached = len(slots) - new_len
    return RequestPlan(rows, split_runs(slots[:num_cached]), _as_run(slots[num_cached:]))


def split_runs(slots: np.ndarray) -> tuple[Slots, ...]:
    """Runs of at least MIN_RUN slots one by one, all others together as indices. slots: [num_slots], int32."""
    if len(slots) == 0:
        return ()
    ends = np.append(np.flatnonzero(np.diff(slots) != 1) + 1, len(slots))
    lengths = np.diff(ends, prepend=0)
    is_long = lengths >= MIN_RUN
    firsts = slots[(ends - lengths)[is_long]].tolist()
    runs = [slice(first, first + length) for first, length in zip(firsts, lengths[is_long].tolist(), strict=True)]
    rest = slots[np.repeat(~is_long, lengths)]
    return (*runs, _as_run(rest)) if len(rest) else tuple(runs)


def attend(query: Tensor, keys: Tensor, values: Tensor, plan: RequestPlan, scaling: float) -> Tensor:
    """One request's attention.

    query: [new_len, num_kv_heads, group, head_dim]. keys, values: [num_slots, num_kv_heads, head_dim].
    Returns the shape of `query`.
    """
    by_head = query.permute(1, 2, 0, 3)
    as_rows = by_head.flatten(1, 2)[None]
    parts = [_flash(as_rows, *_read(keys, values, slots, query.dtype), scaling) for slots in plan.visible]
    if plan.causal is not None:
        key, value = _read(keys, values, plan.causal, query.dtype)
        shape = (*by_head.shape[:2], -1, -1)
        out, lse = _flash(by_head, key[0, :, None].expand(shape), value[0, :, None].expand(shape), scaling, causal=True)
        parts.append((out.reshape(as_rows.shape), lse.reshape(as_rows.shape[:-1])))
    return _merge(parts).view(by_head.shape).permute(2, 0, 1, 3)


def _is_causal_decoder(layer: RadixAttention, forward_batch: ForwardBatch) -> bool:
    return (
        not layer.is_cross_attention
        and layer.attn_type != AttentionType.ENCODER_ONLY
        and layer.sliding_window_size <= -1
        and layer.qk_head_dim == layer.v_head_dim
        and forward_batch.encoder_lens is None
    )


def _as_run(slots: np.ndarray) -> Slots:
    first = int(slots[0])
    is_run = bool((np.diff(slots) == 1).all())
    return slice(first, first + len(slots)) if is_run else torch.from_numpy(slots.copy())


def _read(keys: Tensor, values: Tensor, slots: Slots, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Keys and values of a piece, [1, num_kv_heads, num_slots, head_dim]; views of the pool for a run."""
    key, value = (_slots_of(pool, slots).to(dtype) for pool in (keys, values))
    return key.transpose(0, 1)[None], value.transpose(0, 1)[None]


def _slots_of(pool: Tensor, slots: Slots) -> Tensor:
    """index_select copies whole rows: 4 microseconds for 150 slots of 3 x 64 in bfloat16, indexing takes 33."""
    return pool[slots] if isinstance(slots, slice) else pool.index_select(0, slots)


def _flash(query: Tensor, key: Tensor, value: Tensor, scaling: float, causal: bool = False) -> tuple[Tensor, Tensor]:
    """What scaled_dot_product_attention runs on a CPU, with the log-sum-exp that it drops.

    query: [batch, heads, rows, head_dim]. Returns the output of that shape, and float32 [batch, heads, rows].
    """
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, is_causal=causal, scale=scaling
    )
    return out, lse


def _merge(parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Attention over all pieces from the outputs and log-sum-exps of each."""
    if len(parts) == 1:
        return parts[0][0]
    weights = torch.stack([lse for _, lse in parts]).softmax(0)
    merged = torch.stack([out for out, _ in parts]).mul(weights[..., None]).sum(0)
    return merged.to(parts[0][0].dtype)
