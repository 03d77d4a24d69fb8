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
from transformers import AttentionInterface
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward

TURN_ATTENTION = "attention_among_turns"
# PyTorch 2.11 takes another kernel for less than 128 rows, which cannot be compiled for heads of 16 in float32
_KERNEL = {"BACKEND": "TRITON"}
_create_mask = torch.compile(create_block_mask)


def turn_mask(turns: Tensor) -> BlockMask:
    """Rows of packed turns, [num_rows], each of which sees the rows before it in its own turn."""

    def is_seen(batch: Tensor, head: Tensor, row: Tensor, seen: Tensor) -> Tensor:
        return (row >= seen) & (turns[row] == turns[seen])

    return _create_mask(is_seen, None, None, len(turns), len(turns), device=str(turns.device))


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: BlockMask | None, **more: Any
) -> tuple[Tensor, Tensor | None]:
    """query, key, value: [batch, heads, rows, head_dim]. Without a mask, each row sees itself and those before it."""
    if mask is None:
        return sdpa_attention_forward(module, query, key, value, None, **more)
    return flex_attention_forward(module, query, key, value, mask, kernel_options=_KERNEL, **more)


AttentionInterface.register(TURN_ATTENTION, _attend)
