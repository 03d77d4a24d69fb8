"""SGLang's default LoRA backend, csgmv, on a CPU: its own plans of batches, its kernels in plain PyTorch.

The kernels read what theirs read: rows by adapter, as segments of a permutation. Nothing in them asks a tensor for its
values, so that decode graphs can be recorded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import sglang.srt.model_executor.model_runner  # noqa: F401  its import registers the CPU platform's backend
import torch
from sglang.srt.lora.backend import chunked_backend
from sglang.srt.lora.backend.chunked_backend import ChunkedSgmvLoRABackend
from sglang.srt.lora.backend.lora_registry import LORA_SUPPORTED_BACKENDS
from torch import Tensor

from sglang_speed.platforms.cpu import LORA_BACKEND
from sglang_speed.platforms.cpu.lora import OrdinaryMemory


class PlainBackend(ChunkedSgmvLoRABackend):
    """In ordinary memory."""

    def prepare_lora_batch(self, *args: Any, **kwargs: Any) -> None:
        with OrdinaryMemory():
            super().prepare_lora_batch(*args, **kwargs)


class _Rows:
    """Rows in the order of the segments, of which a graph may have more than its batch: no segment has these.

    rows, adapters: [num_rows], int64: each row and the place of its adapter. known: whether a segment has it.
    """

    def __init__(self, info: Any, num_rows: int) -> None:
        ends = info.seg_indptr[1 : len(info.weight_indices) + 1].long().contiguous()
        lines = torch.arange(num_rows)
        segment = torch.searchsorted(ends, lines, right=True).clamp(max=len(ends) - 1)
        self.known = lines < ends[-1]
        self.rows = torch.where(self.known, info.permutation[:num_rows].long(), lines)
        self.adapters = info.weight_indices[segment].long()
        self.ranks, self.scalings = info.lora_ranks[self.adapters].long(), info.scalings[self.adapters]

    def put(self, values: Tensor, out: Tensor) -> Tensor:
        """Add what the known rows have, [num_rows, num_columns], to the first columns of `out`."""
        out[:, : values.shape[1]].index_add_(0, self.rows, torch.where(self.known[:, None], values, 0.0))
        return out


def shrink(x: Tensor, weights: Tensor, batch_info: Any, num_slices: int) -> Tensor:
    of = _Rows(batch_info, len(x))
    out = torch.einsum("rk,rnk->rn", x[of.rows], weights[of.adapters])
    of_own_rank = torch.arange(out.shape[1]) < (of.ranks * num_slices)[:, None]
    return of.put(torch.where(of_own_rank, out, 0.0), torch.zeros_like(out))


def expand(
    x: Tensor, weights: Tensor, batch_info: Any, slice_offsets: Tensor, base_output: Tensor | None, **_: Any
) -> Tensor:
    of = _Rows(batch_info, len(x))
    offsets, columns = slice_offsets.tolist(), torch.arange(weights.shape[-1])
    of_own_rank = columns < of.ranks[:, None]
    added = []
    for number in range(len(offsets) - 1):
        places = (number * of.ranks[:, None] + columns).clamp(max=x.shape[1] - 1)
        own = torch.where(of_own_rank, x[of.rows].gather(1, places), 0.0)
        of_slice = weights[of.adapters][:, offsets[number] : offsets[number + 1]]
        # what lies behind an adapter's rank is another's
        of_slice = torch.where(of_own_rank[:, None], of_slice, 0.0)
        added.append(torch.einsum("rk,rnk->rn", own, of_slice) * of.scalings[:, None])
    out = torch.zeros(len(x), weights.shape[1]) if base_output is None else base_output
    return of.put(torch.cat(added, dim=1), out)  # a head's output may be wider, for its padding


def embed(input_ids: Tensor, weights: Tensor, batch_info: Any, vocab_size: int) -> Tensor:
    of = _Rows(batch_info, len(input_ids))
    out = weights[of.adapters, :, input_ids[of.rows]]
    of_own_rank = torch.arange(out.shape[1]) < of.ranks[:, None]
    return of.put(torch.where(of_own_rank, out, 0.0), torch.zeros_like(out))


@contextmanager
def csgmv_standin() -> Iterator[None]:
    """Schedulers of the CPU platform run csgmv until the block ends."""
    kernels = {
        "chunked_sgmv_lora_shrink_forward": shrink,
        "chunked_sgmv_lora_expand_forward": expand,
        "chunked_embedding_lora_a_forward": embed,
    }
    backend = mock.patch.dict(LORA_SUPPORTED_BACKENDS, {LORA_BACKEND: lambda: PlainBackend})
    with mock.patch.multiple(chunked_backend, **kernels), backend:
        yield
