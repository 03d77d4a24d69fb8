"""Attention of training on CUDA, known to transformers as TURN_ATTENTION.

FlexAttention where rows see their own turn only, which skips what they do not see; scaled dot-product attention where
all tokens see those before them. FlexAttention is compiled for each kind of mask, and PyTorch gives up after a few
(`torch._dynamo.config.recompile_limit`), then multiplies everything: so it gets one kind only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.flex_attention import flex_attention_forward, repeat_kv

TURN_ATTENTION = "attention_among_turns"
# left to itself, PyTorch 2.11 takes its decoding kernel for less than 128 rows, and has none where the rows times the
# query heads that share a key are more than 128
_KERNEL = {"BACKEND": "TRITON"}
_create_mask = torch.compile(create_block_mask)


def turn_mask(turns: Tensor) -> BlockMask:
    """Rows of packed turns, [num_rows], each of which sees the rows before it in its own turn."""

    def is_seen(batch: Tensor, head: Tensor, row: Tensor, seen: Tensor) -> Tensor:
        return (row >= seen) & (turns[row] == turns[seen])

    return _create_mask(is_seen, None, None, len(turns), len(turns), device=str(turns.device))


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: BlockMask | None,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, Tensor | None]:
    """query, key, value: [batch, heads, rows, head_dim]. Without a mask, each row sees itself and those before it."""
    if mask is None:
        # keys are repeated, since the kernels that do without a matrix of all scores share none in float32
        groups = query.shape[1] // key.shape[1]
        seen = (repeat_kv(key, groups), repeat_kv(value, groups))
        attended = scaled_dot_product_attention(query, *seen, is_causal=True, scale=scaling)
        return attended.transpose(1, 2).contiguous(), None
    assert isinstance(mask, BlockMask), f"{TURN_ATTENTION} takes no matrix as a mask"
    return flex_attention_forward(module, query, key, value, mask, scaling, kernel_options=_KERNEL, **more)


AttentionInterface.register(TURN_ATTENTION, _attend)
