"""Attention on a CPU: only new rows attend, keys are read where they lie, and heads that share keys form one product.

Owns no KV: it reads the table and the pool that the runner had when the backend was built, whichever they are. What it
does not do itself (cross attention, encoders) SGLang's own class does.

A request's keys are cut into pieces. Attention over a piece gives an output and a log-sum-exp, and pieces are merged by
softmax over the latter; so no mask is built, and memory does not grow with the square of a prompt. Sliding windows and
capped scores go block by block of rows, with a mask of the block. In a decode step short requests are one product, with
a mask where one ends: for them the calls cost more than the arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
from sglang.srt.layers.radix_attention import AttentionType, RadixAttention
from sglang.srt.mem_cache.memory_pool import KVWriteLoc, MHATokenToKVPool
from torch import Tensor
from torch.nn.functional import pad

if TYPE_CHECKING:
    from sglang.srt.model_executor.forward_batch_info import ForwardBatch

MIN_RUN = 256
"""Slots in a row from which a run is read in place; shorter ones are gathered, which costs less than one more merge."""
BLOCK_ROWS = 256
"""Rows that share a mask."""
SHORT = 1024
"""Slots of a request that is read together with others in a decode step."""

Slots = slice | Tensor
"""Slots of a pool: a run of them, or their indices [num_slots]."""


class Request(NamedTuple):
    """A request in a batch.

    slots: of its tokens, [num_tokens], int32. new_len: how many of them are new. first_row: of these.
    tree: bool, [new_len, new_len], which of the new ones each one sees; None for all up to itself.
    """

    slots: np.ndarray
    new_len: int
    first_row: int
    tree: np.ndarray | None = None


@dataclass(frozen=True)
class RequestPlan:
    """What one request's query rows see in a layer whose rows see everything before them.

    rows: their place in the batch.
    visible: slots that every one of the rows sees, in any order.
    causal: slots of the rows themselves, in order, row by row; None where `visible` has them.
    tree: bool, [num_rows, num_rows], which of the rows each one sees; None for all up to itself.
    """

    rows: slice
    visible: tuple[Slots, ...]
    causal: Slots | None
    tree: Tensor | None = None


@dataclass(frozen=True)
class Block:
    """A few rows of a request and what they see, for layers that need a mask.

    rows: their place in the batch. slots: in position order. seen: bool, [num_rows, num_slots]; None where all rows
    see all slots.
    """

    rows: slice
    slots: Slots
    seen: Tensor | None


@dataclass(frozen=True)
class Short:
    """Requests of a decode step that are read together, and what each sees.

    rows: their places in the batch. slots: [num_requests, most]; after those that a request sees, its first one again.
    seen: bool, [num_requests, 1, 1, most], which are seen; None where all are.
    """

    rows: Slots
    slots: Tensor
    seen: Tensor | None


class CpuAttnBackend(TorchNativeAttnBackend):
    """A drop-in for SGLang's torch_native backend with the same results, which also has what that one leaves out:
    attention sinks and capped scores."""

    def __init__(self, model_runner: Any) -> None:
        super().__init__(model_runner)
        self.max_context_len = self.req_to_token_pool.req_to_token.shape[1]
        self.plans: list[RequestPlan] = []
        self._requests: list[Request] = []
        self._blocks: dict[int | None, list[Block]] = {}
        self._short: list[Request] = []
        self._together: dict[int | None, Short] = {}

    def init_forward_metadata(self, forward_batch: ForwardBatch) -> None:
        super().init_forward_metadata(forward_batch)
        self.plans, self._requests, self._blocks, self._short, self._together = [], [], {}, [], {}
        if forward_batch.forward_mode.is_idle():
            return
        seq_lens, new_lens, trees = _lengths(forward_batch)
        start = 0
        # numpy, on the table's own memory: a step plans every request, and at this size tensor operations cost more
        table = self.req_to_token_pool.req_to_token.numpy()
        table_rows = forward_batch.req_pool_indices.tolist()
        for table_row, seq_len, new_len, tree in zip(table_rows, seq_lens, new_lens, trees, strict=True):
            self._requests.append(Request(table[table_row, :seq_len], new_len, start, tree))
            start += new_len
        if forward_batch.forward_mode.is_decode() and len(seq_lens) > 1:
            self._short = [request for request in self._requests if len(request.slots) <= SHORT]
            self._requests = [request for request in self._requests if len(request.slots) > SHORT]
        self.plans = [plan_request(*request) for request in self._requests]

    def forward_extend(
        self,
        q: Tensor,
        k: Tensor | None,
        v: Tensor | None,
        layer: RadixAttention,
        forward_batch: ForwardBatch,
        save_kv_cache: bool = True,
        **more: Any,
    ) -> Tensor:
        if not _is_causal_decoder(layer, forward_batch):
            stock: Tensor = super().forward_extend(q, k, v, layer, forward_batch, save_kv_cache, **more)
            return stock
        return self._attend(q, k, v, layer, forward_batch, save_kv_cache, **more)

    def forward_decode(
        self,
        q: Tensor,
        k: Tensor | None,
        v: Tensor | None,
        layer: RadixAttention,
        forward_batch: ForwardBatch,
        save_kv_cache: bool = True,
        **more: Any,
    ) -> Tensor:
        if not _is_causal_decoder(layer, forward_batch):
            stock: Tensor = super().forward_decode(q, k, v, layer, forward_batch, save_kv_cache, **more)
            return stock
        return self._attend(q, k, v, layer, forward_batch, save_kv_cache, **more)

    def _attend(
        self,
        q: Tensor,
        k: Tensor | None,
        v: Tensor | None,
        layer: RadixAttention,
        forward_batch: ForwardBatch,
        save_kv_cache: bool,
        sinks: Tensor | None = None,
    ) -> Tensor:
        """q: [num_rows, num_heads * qk_head_dim]; returns [num_rows, num_heads * v_head_dim].

        sinks: [num_heads], what every row adds to its softmax's denominator, as a logit.
        """
        has_scales = self._has_scales(layer)
        if save_kv_cache and k is not None and v is not None:
            scales = (layer.k_scale, layer.v_scale) if has_scales else ()
            self.token_to_kv_pool.set_kv_buffer(layer, KVWriteLoc(forward_batch.out_cache_loc, None), k, v, *scales)
        keys = self.token_to_kv_pool.get_key_buffer(layer.layer_id)
        values = self.token_to_kv_pool.get_value_buffer(layer.layer_id)
        query = q.view(-1, layer.tp_k_head_num, layer.tp_q_head_num // layer.tp_k_head_num, layer.qk_head_dim)
        scaling = layer.scaling * (layer.k_scale_float if has_scales else 1.0)
        heads = Heads(scaling, layer.logit_cap, None if sinks is None else sinks.view(query.shape[1:3]))
        output = query.new_empty((*query.shape[:3], layer.v_head_dim))
        for rows, out in self._outputs(query, keys, values, layer, heads):
            output[rows] = out
        if has_scales:
            output *= layer.v_scale_float
        return output.view(len(q), -1)

    def _has_scales(self, layer: RadixAttention) -> bool:
        """Whether keys and values lie in the pool divided by the layer's scales, as fp8 does where there are any."""
        pool = self.token_to_kv_pool
        is_fp8 = isinstance(pool, MHATokenToKVPool) and pool.store_dtype != pool.dtype
        return is_fp8 and layer.k_scale is not None

    def _outputs(
        self, query: Tensor, keys: Tensor, values: Tensor, layer: RadixAttention, heads: Heads
    ) -> Iterator[tuple[Slots, Tensor]]:
        """Rows of the batch and their attention."""
        window = layer.sliding_window_size if layer.sliding_window_size > -1 else None
        if self._short:
            if window not in self._together:
                self._together[window] = read_together(self._short, window)
            short = self._together[window]
            yield short.rows, attend_together(query[short.rows], keys, values, short, heads)
        if window is None and not heads.logit_cap:
            for plan in self.plans:
                yield plan.rows, attend(query[plan.rows], keys, values, plan, heads)
            return
        if window not in self._blocks:
            blocks = (blocks_of(request, window) for request in self._requests)
            self._blocks[window] = list(chain.from_iterable(blocks))
        for block in self._blocks[window]:
            yield block.rows, attend_in_block(query[block.rows], keys, values, block, heads)


class Heads(NamedTuple):
    """What a layer's heads do beside the products.

    scaling: of scores. logit_cap: scores become `cap * tanh(score / cap)`; 0 for none. sinks: [num_kv_heads, group].
    """

    scaling: float
    logit_cap: float = 0.0
    sinks: Tensor | None = None


def _lengths(forward_batch: ForwardBatch) -> tuple[list[int], list[int], Sequence[np.ndarray | None]]:
    """Of each request all tokens, the new ones among them, and which of these each one sees."""
    seq_lens: list[int] = forward_batch.seq_lens.tolist()
    if forward_batch.forward_mode.is_decode():
        return seq_lens, [1] * len(seq_lens), [None] * len(seq_lens)
    if not forward_batch.forward_mode.is_target_verify():
        return seq_lens, forward_batch.extend_seq_lens.tolist(), [None] * len(seq_lens)
    num_nodes = forward_batch.spec_info.draft_token_num
    trees = trees_in(forward_batch.spec_info.custom_mask, seq_lens, num_nodes)
    return [seq_len + num_nodes for seq_len in seq_lens], [num_nodes] * len(seq_lens), trees


def trees_in(mask: Tensor, seq_lens: Sequence[int], num_nodes: int) -> list[np.ndarray]:
    """What the drafts of each request see of each other, bool [num_nodes, num_nodes].

    mask: flat; of each request [num_nodes, seq_len + num_nodes], what they see of all its tokens.
    """
    lengths = [num_nodes * (seq_len + num_nodes) for seq_len in seq_lens]
    parts = torch.split(mask[: sum(lengths)], lengths)
    return [part.view(num_nodes, -1)[:, -num_nodes:].numpy() for part in parts]


def plan_request(slots: np.ndarray, new_len: int, first_row: int, tree: np.ndarray | None = None) -> RequestPlan:
    """Cut a request of `len(slots)` tokens, the last `new_len` of them new, into pieces; as in `Request`."""
    rows = slice(first_row, first_row + new_len)
    if new_len == 1:
        return RequestPlan(rows, split_runs(slots), None)
    num_cached = len(slots) - new_len
    seen = None if tree is None else torch.from_numpy(tree)
    return RequestPlan(rows, split_runs(slots[:num_cached]), _as_run(slots[num_cached:]), seen)


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


def blocks_of(request: Request, window: int | None) -> Iterator[Block]:
    """The new rows of a request, BLOCK_ROWS at a time.

    window: a row sees itself and so many tokens before it; None for all of them.
    """
    slots, new_len, first_row, tree = request
    num_cached, num_slots = len(slots) - new_len, len(slots)
    if tree is not None:
        yield Block(slice(first_row, first_row + new_len), _as_run(slots), _seen_by_drafts(tree, num_cached, window))
        return
    for first in range(num_cached, num_slots, BLOCK_ROWS):
        end = min(first + BLOCK_ROWS, num_slots)
        lowest = 0 if window is None else max(0, first - window)
        ahead = np.arange(first, end)[:, None] - np.arange(lowest, end)[None]
        seen = (ahead >= 0) & (True if window is None else ahead <= window)
        rows = slice(first_row + first - num_cached, first_row + end - num_cached)
        yield Block(rows, _as_run(slots[lowest:end]), None if seen.all() else torch.from_numpy(seen))


def _seen_by_drafts(tree: np.ndarray, num_cached: int, window: int | None) -> Tensor:
    """What drafts see of all tokens, bool [num_drafts, num_cached + num_drafts]; a branch stands where it would if it
    were the only one."""
    places = num_cached + tree.sum(-1) - 1
    ahead = places[:, None] - np.concatenate([np.arange(num_cached), places])
    seen = np.concatenate([np.ones((len(tree), num_cached), dtype=bool), tree], axis=1)
    return torch.from_numpy(seen & (True if window is None else ahead <= window))


def read_together(requests: Sequence[Request], window: int | None) -> Short:
    """window: a row sees itself and so many tokens before it; None for all of them."""
    seen_slots = [each.slots if window is None else each.slots[-window - 1 :] for each in requests]
    lengths = np.array([len(slots) for slots in seen_slots])
    together = np.empty((len(requests), lengths.max()), dtype=np.int32)
    for line, slots in zip(together, seen_slots, strict=True):
        line[: len(slots)], line[len(slots) :] = slots, slots[0]
    seen = np.arange(together.shape[1]) < lengths[:, None]
    rows = _as_run(np.array([each.first_row for each in requests]))
    return Short(rows, torch.from_numpy(together), None if seen.all() else torch.from_numpy(seen)[:, None, None])


def attend_together(query: Tensor, keys: Tensor, values: Tensor, short: Short, heads: Heads) -> Tensor:
    """The attention of short requests, one row each; shapes as in `attend`, with num_requests rows."""
    num_slots = short.slots.numel()
    pieces = _read(keys, values, short.slots.view(num_slots), query.dtype)
    # [num_requests, num_kv_heads, most, qk_head_dim]: the heads of a group are rows
    key, value = (piece[0].view(len(piece[0]), *short.slots.shape, -1).transpose(0, 1) for piece in pieces)
    out, lse = _with_mask(query, key, value, heads, short.seen)
    out = out if heads.sinks is None else _with_sinks(out, lse, heads.sinks)
    return out[..., : values.shape[-1]]


def attend(query: Tensor, keys: Tensor, values: Tensor, plan: RequestPlan, heads: Heads) -> Tensor:
    """One request's attention.

    query: [new_len, num_kv_heads, group, qk_head_dim]. keys, values: [num_slots, num_kv_heads, head_dim], of their own
    head_dim each. Returns [new_len, num_kv_heads, group, v_head_dim].
    """
    by_head = query.permute(1, 2, 0, 3)
    as_rows = by_head.flatten(1, 2)[None]
    parts = [_flash(as_rows, *_read(keys, values, slots, query.dtype), heads.scaling) for slots in plan.visible]
    if plan.causal is not None:
        shared = _for_each_head(by_head, *_read(keys, values, plan.causal, query.dtype))
        out, lse = (
            _with_mask(by_head, *shared, heads, plan.tree)
            if plan.tree is not None
            else _flash(by_head, *shared, heads.scaling, causal=True)
        )
        parts.append((out.reshape(as_rows.shape), lse.reshape(as_rows.shape[:-1])))
    out = _merge(parts).view(by_head.shape)
    if heads.sinks is not None:
        lse = torch.stack([lse for _, lse in parts]).logsumexp(0).view(out.shape[:-1])
        out = _with_sinks(out, lse, heads.sinks[..., None])
    return out[..., : values.shape[-1]].permute(2, 0, 1, 3)


def attend_in_block(query: Tensor, keys: Tensor, values: Tensor, block: Block, heads: Heads) -> Tensor:
    """The same for the rows of a block."""
    by_head = query.permute(1, 2, 0, 3)
    key, value = _for_each_head(by_head, *_read(keys, values, block.slots, query.dtype))
    out, lse = _with_mask(by_head, key, value, heads, block.seen)
    out = out if heads.sinks is None else _with_sinks(out, lse, heads.sinks[..., None])
    return out[..., : values.shape[-1]].permute(2, 0, 1, 3)


def _is_causal_decoder(layer: RadixAttention, forward_batch: ForwardBatch) -> bool:
    return (
        not layer.is_cross_attention
        and layer.attn_type != AttentionType.ENCODER_ONLY
        and forward_batch.encoder_lens is None
    )


def _as_run(slots: np.ndarray) -> Slots:
    first = int(slots[0])
    is_run = bool((np.diff(slots) == 1).all())
    return slice(first, first + len(slots)) if is_run else torch.from_numpy(slots.copy())


def _read(keys: Tensor, values: Tensor, slots: Slots, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Keys and values of a piece, [1, num_kv_heads, num_slots, qk_head_dim]; views of the pool for a run.

    Values with fewer numbers than keys are filled up, since the kernel knows one head size.
    """
    key, value = (_slots_of(pool, slots).to(dtype) for pool in (keys, values))
    if value.shape[-1] < key.shape[-1]:
        value = pad(value, (0, key.shape[-1] - value.shape[-1]))
    return key.transpose(0, 1)[None], value.transpose(0, 1)[None]


def _for_each_head(by_head: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """A piece as every query head of a group sees it, [num_kv_heads, group, num_slots, qk_head_dim]; views."""
    shape = (*by_head.shape[:2], -1, -1)
    return key[0, :, None].expand(shape), value[0, :, None].expand(shape)


def _slots_of(pool: Tensor, slots: Slots) -> Tensor:
    """index_select copies whole rows: 4 microseconds for 150 slots of 3 x 64 in bfloat16, indexing takes 33."""
    return pool[slots] if isinstance(slots, slice) else pool.index_select(0, slots)


def _flash(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, causal: bool = False, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """What scaled_dot_product_attention runs on a CPU, with the log-sum-exp that it drops.

    query: [batch, heads, rows, head_dim]. mask: added to scores, [rows, num_slots] or one for each of a batch. Returns
    the output of the query's shape, and float32 [batch, heads, rows].
    """
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, is_causal=causal, attn_mask=mask, scale=scaling
    )
    return out, lse


def _with_mask(query: Tensor, key: Tensor, value: Tensor, heads: Heads, seen: Tensor | None) -> tuple[Tensor, Tensor]:
    """seen: bool, which scores count; None for all."""
    if heads.logit_cap:
        return _capped(query, key, value, heads, seen)
    mask = None if seen is None else _hide(torch.zeros_like(seen, dtype=query.dtype), seen)
    if mask is not None and mask.dim() > 2:
        mask = mask.expand(-1, -1, query.shape[2], -1)
    return _flash(query, key, value, heads.scaling, mask=mask)


def _capped(query: Tensor, key: Tensor, value: Tensor, heads: Heads, seen: Tensor | None) -> tuple[Tensor, Tensor]:
    """The same with capped scores, which no kernel has."""
    scores = (query.float() @ key.float().transpose(-1, -2)) * heads.scaling
    scores = heads.logit_cap * torch.tanh(scores / heads.logit_cap)
    if seen is not None:
        scores = _hide(scores, seen)
    out = scores.softmax(-1) @ value.float()
    return out.to(query.dtype), scores.logsumexp(-1)


def _hide(scores: Tensor, seen: Tensor) -> Tensor:
    return scores.masked_fill(~seen, float("-inf"))


def _with_sinks(out: Tensor, lse: Tensor, sinks: Tensor) -> Tensor:
    """Attention with one more entry in the softmax, whose value is zero.

    lse: the log-sum-exp of `out`, without its last dimension. sinks: logits, as far as `lse` is broadcast to them.
    """
    return (out * torch.sigmoid(lse - sinks.float())[..., None]).to(out.dtype)


def _merge(parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Attention over all pieces from the outputs and log-sum-exps of each."""
    if len(parts) == 1:
        return parts[0][0]
    weights = torch.stack([lse for _, lse in parts]).softmax(0)
    merged = torch.stack([out for out, _ in parts]).mul(weights[..., None]).sum(0)
    return merged.to(parts[0][0].dtype)
