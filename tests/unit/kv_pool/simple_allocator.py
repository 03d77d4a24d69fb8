"""A free list with the interface that the deep band needs of an allocator. Slot 0 is padding."""

from __future__ import annotations

import torch
from torch import Tensor


class SimpleAllocator:
    def __init__(self, size: int) -> None:
        self.size = size
        self.release_pages = torch.tensor([], dtype=torch.int64)
        self.clear()

    def clear(self) -> None:
        self.free_pages = torch.arange(1, self.size + 1)

    def available_size(self) -> int:
        return len(self.free_pages)

    def alloc(self, need_size: int) -> Tensor | None:
        if need_size > len(self.free_pages):
            return None
        taken, self.free_pages = self.free_pages[:need_size], self.free_pages[need_size:]
        return taken

    def free(self, free_index: Tensor) -> None:
        twice = set(free_index.tolist()) & set(self.free_pages.tolist())
        assert not twice, f"freed twice: {sorted(twice)}"
        self.free_pages = torch.cat([self.free_pages, free_index])

    def get_kvcache(self) -> None:
        """No tensors are behind the slots."""
