"""Which tokens of a prompt the last ones attend to most: FastKV's scores, from queries and the keys in the pool.

Nothing here waits for the device: how many tokens are chosen is known before, which they are stays there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from sglang.srt.distributed import tensor_model_parallel_all_gather
from torch import Tensor
from torch.nn.functional import max_pool1d

from sglang_speed.method.deep_tokens import Context

BLOCK_KEYS = 8192
"""Keys that are multiplied at once; they are read into a block, in float32."""


def summed(of_heads: Tensor) -> Tensor:
    """Scores of all heads of all ranks, float32 [num_places], of those of each KV head of this rank.

    Every rank adds the same numbers in the same order: ranks that chose different tokens would add up their rows.
    """
    of_ranks: Tensor = tensor_model_parallel_all_gather(of_heads.sum(0)[None], dim=0)
    return of_ranks.sum(0)


def scores_of_heads(
    queries: Tensor, keys: Tensor, slots: Tensor, scaling: float, logit_cap: float, kernel: int
) -> Tensor:
    """How much the window attends to each position before it with the query heads of each KV head, float32
    [num_kv_heads, num_slots - window].

    queries: [window, num_heads, head_dim], of the last positions, as they go into the scores. keys: a pool,
    [pool_size, num_kv_heads, head_dim]. slots: [num_slots], of the context in the order of positions.
    """
    window, (_, num_kv_heads, head_dim) = len(queries), keys.shape
    grouped = queries.float().view(window, num_kv_heads, -1, head_dim).permute(1, 2, 0, 3).flatten(1, 2)
    logits = torch.cat([_products(grouped, keys, block) for block in torch.split(slots, BLOCK_KEYS)], dim=-1) * scaling
    if logit_cap:
        logits = logit_cap * torch.tanh(logits / logit_cap)
    logits = logits.view(-1, window, len(slots))
    is_later = torch.ones(window, window, dtype=torch.bool, device=logits.device).triu(1)
    logits[..., len(slots) - window :].masked_fill_(is_later, float("-inf"))
    of_heads = logits.softmax(-1)[..., : len(slots) - window].sum(1)
    pooled = max_pool1d(of_heads, kernel, stride=1, padding=kernel // 2)
    return pooled.view(num_kv_heads, -1, pooled.shape[-1]).sum(1)


def keep(found: Tensor, num_first: int, num_kept: int, num_places: int) -> Tensor:
    """Places that each KV head keeps of a context, ascending, int64 [num_kv_heads, num_kept].

    found: scores, [num_kv_heads, num_places - window]. The first `num_first` places are kept, and the window.
    """
    ranked = found.new_full((len(found), num_places), float("inf"))
    ranked[:, num_first : found.shape[1]] = found[:, num_first:]
    order = ranked.sort(dim=-1, descending=True, stable=True).indices
    return order[:, :num_kept].sort(dim=-1).values


def _products(grouped: Tensor, keys: Tensor, slots: Tensor) -> Tensor:
    """grouped: [num_kv_heads, rows, head_dim]. Returns [num_kv_heads, rows, num_slots]."""
    return grouped @ keys.index_select(0, slots).float().permute(1, 2, 0)


def select(found: Tensor, contexts: Sequence[Context]) -> list[Tensor]:
    """Deep positions of a context in each band, ascending, int64 [num_deep] each. found: its scores.

    All bands rank alike, so a band chooses among the tokens of the band below it.
    """
    context = contexts[0]
    ranked = found.new_full((context.end,), float("-inf"))
    ranked[: len(found)] = found
    ranked.masked_fill_(_is_chosen(context).to(found.device, non_blocking=True), float("inf"))
    order = ranked.sort(descending=True, stable=True).indices
    return [order[: each.num_deep].sort().values for each in contexts]


def _is_chosen(context: Context) -> Tensor:
    """bool [end], on the CPU."""
    chosen = np.zeros(context.end, dtype=bool)
    for run in context.chosen:
        chosen[run.start : run.stop] = True
    return torch.from_numpy(chosen)
