"""Attention of one request in plain PyTorch, for the stand-ins of attention libraries."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def attend_one(
    q: Tensor, k: Tensor, v: Tensor, sm_scale: float, causal: bool, seen: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The last rows of a sequence attend to all of it.

    q: [num_rows, num_heads, head_dim]. k, v: [length, num_kv_heads, head_dim]. seen: bool, [num_rows, length], in place
    of causality.
    Returns the output, like q, and the base-2 log-sum-exp [num_rows, num_heads].
    """
    group = q.shape[1] // k.shape[1]
    k, v = (each.float().repeat_interleave(group, dim=1) for each in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q.float(), k) * sm_scale
    if seen is not None:
        scores = scores.masked_fill(~seen, -torch.inf)
    elif causal:
        later = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1 + k.shape[0] - q.shape[0])
        scores = scores.masked_fill(later, -torch.inf)
    out = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v)
    return out.to(q.dtype), scores.logsumexp(-1).T / math.log(2)
