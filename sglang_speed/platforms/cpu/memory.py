"""KV memory on a CPU: SGLang's pool and allocators where they need a GPU for nothing but speed.

Owns how buffers are allocated and how pages are handed out. The layout of the pool and the books are SGLang's.
"""

from __future__ import annotations

from typing import Any

import torch
from sglang.srt.mem_cache.allocator.base import BaseTokenToKVPoolAllocator
from sglang.srt.mem_cache.allocator.paged import PagedTokenToKVPoolAllocator, alloc_extend_naive
from sglang.srt.mem_cache.allocator.token import TokenToKVPoolAllocator
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool
from sglang.srt.utils import get_num_new_pages
from torch import Tensor

from sglang_speed.host.field import Field

SORTS_SLOTS = Field(
    owner="sglang.srt.mem_cache.allocator.base.BaseTokenToKVPoolAllocator",
    name="need_sort",
    is_new=False,
    reason="requests that keep getting slots in a row are read where they lie; SGLang sorts for disaggregation only",
)


class CpuKVPool(MHATokenToKVPool):
    """SGLang's pool, not zeroed: the system maps a page of it when it is first written, so an idle pool costs nothing.

    No one reads a slot before it is written: attention reads slots of live requests only.
    """

    def _create_buffers_normal(self) -> None:
        key_shape, value_shape = self._kv_buffer_shapes()
        self.k_buffer = [self._empty(key_shape) for _ in range(self.layer_num)]
        self.v_buffer = [self._empty(value_shape) for _ in range(self.layer_num)]

    def _init_kv_copy_and_warmup(self) -> None:
        """Drafts that were accepted are moved by PyTorch; SGLang would compile a kernel for it."""
        self.use_native_move_kv_cache = True
        self._kv_copy_config = None

    def _empty(self, shape: tuple[int, ...]) -> Tensor:
        return torch.empty(shape, dtype=self.store_dtype, device=self.device)


class CpuPagedAllocator(PagedTokenToKVPoolAllocator):
    """SGLang's allocator for pages of several slots, with its Triton kernels replaced by tensor operations."""

    free_pages: Tensor

    def alloc_extend(
        self,
        prefix_lens: Tensor,
        prefix_lens_cpu: Tensor,
        seq_lens: Tensor,
        seq_lens_cpu: Tensor,
        last_loc: Tensor,
        extend_num_tokens: int,
        num_new_pages: int | None = None,
    ) -> Tensor | None:
        """Slots for positions [prefix_len, seq_len) of each request, or None where pages run out.

        prefix_lens, seq_lens, last_loc: [num_requests]; last_loc is the slot of position prefix_len - 1.
        """
        if num_new_pages is None:
            num_new_pages = get_num_new_pages(
                seq_lens=seq_lens_cpu, page_size=self.page_size, prefix_lens=prefix_lens_cpu
            )
        if not self._has_pages(num_new_pages):
            return None
        slots = torch.empty(extend_num_tokens, dtype=torch.int64)
        alloc_extend_naive(prefix_lens, seq_lens, last_loc, self.free_pages, slots, self.page_size, self.device)
        self.free_pages = self.free_pages[num_new_pages:]
        return slots

    def alloc_decode(self, seq_lens: Tensor, seq_lens_cpu: Tensor, last_loc: Tensor) -> Tensor | None:
        """A slot for the last position of each request, or None where pages run out. All: [num_requests]."""
        starts_page = seq_lens % self.page_size == 1
        num_new_pages = int(starts_page.sum())
        if not self._has_pages(num_new_pages):
            return None
        slots = last_loc.to(torch.int64) + 1
        slots[starts_page] = self.free_pages[:num_new_pages] * self.page_size
        self.free_pages = self.free_pages[num_new_pages:]
        return slots

    def _has_pages(self, num_pages: int) -> bool:
        if self.need_sort and num_pages > len(self.free_pages):
            self.merge_and_sort_free()
        return num_pages <= len(self.free_pages)


def build_allocator(size: int, *, page_size: int, **kwargs: Any) -> BaseTokenToKVPoolAllocator:
    """The allocator for a pool of `size` slots, which sorts; `kwargs` are those of SGLang's allocators."""
    kwargs["need_sort"] = True
    if page_size == 1:
        return TokenToKVPoolAllocator(size, **kwargs)
    return CpuPagedAllocator(size, page_size=page_size, **kwargs)
