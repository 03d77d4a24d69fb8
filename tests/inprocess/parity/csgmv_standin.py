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


def _rows(info: Any, num_rows: int) -> tuple[Tensor, Tensor]:
    """Rows in the order of the segments, and the place of the adapter of each, [num_rows], int64."""
    ends = info.seg_indptr[1 : len(info.weight_indices) + 1].contiguous()
    segment = torch.searchsorted(ends.long(), torch.arange(num_rows), right=True)
    return info.permutation[:num_rows].long(), info.weight_indices[segment].long()


def shrink(x: Tensor, weights: Tensor, batch_info: Any, num_slices: int) -> Tensor:
    rows, adapters = _rows(batch_info, len(x))
    out = torch.einsum("rk,rnk->rn", x[rows], weights[adapters])
    known = torch.arange(out.shape[1]) < (batch_info.lora_ranks[adapters] * num_slices)[:, None]
    return torch.zeros_like(out).index_copy(0, rows, torch.where(known, out, 0.0))


def expand(
    x: Tensor, weights: Tensor, batch_info: Any, slice_offsets: Tensor, base_output: Tensor | None, **_: Any
) -> Tensor:
    rows, adapters = _rows(batch_info, len(x))
    ranks, scalings = batch_info.lora_ranks[adapters].long(), batch_info.scalings[adapters]
    max_rank, offsets = weights.shape[-1], slice_offsets.tolist()
    columns = torch.arange(max_rank)
    added = []
    for number in range(len(offsets) - 1):
        places = (number * ranks[:, None] + columns).clamp(max=x.shape[1] - 1)
        own = torch.where(columns < ranks[:, None], x[rows].gather(1, places), 0.0)
        of_slice = weights[adapters][:, offsets[number] : offsets[number + 1]]
        # what lies behind an adapter's rank is another's
        of_slice = torch.where(columns < ranks[:, None, None], of_slice, 0.0)
        added.append(torch.einsum("rk,rnk->rn", own, of_slice) * scalings[:, None])
    out = torch.zeros(len(x), weights.shape[1]) if base_output is None else base_output
    out[:, : weights.shape[1]].index_add_(0, rows, torch.cat(added, dim=1))  # a head's may be wider, for its padding
    return out


def embed(input_ids: Tensor, weights: Tensor, batch_info: Any, vocab_size: int) -> Tensor:
    rows, adapters = _rows(batch_info, len(input_ids))
    out = weights[adapters, :, input_ids[rows]]
    known = torch.arange(out.shape[1]) < batch_info.lora_ranks[adapters][:, None]
    return torch.zeros_like(out).index_copy(0, rows, torch.where(known, out, 0.0))


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
