"""A free list with the interface that the deep band needs of an allocator. Slot 0 is padding."""

from __future__ import annotations

import torch
from torch import Tensor


class SimpleAllocator:
    def __init__(self, size: int) -> None:
        self.size = size
        self.clear()

    def clear(self) -> None:
        self.slots = list(range(1, self.size + 1))

    def available_size(self) -> int:
        return len(self.slots)

    def alloc(self, need_size: int) -> Tensor | None:
        if need_size > len(self.slots):
            return None
        taken, self.slots = self.slots[:need_size], self.slots[need_size:]
        return torch.tensor(taken, dtype=torch.int64)

    def free(self, free_index: Tensor) -> None:
        freed = free_index.tolist()
        assert not set(freed) & set(self.slots), f"freed twice: {sorted(set(freed) & set(self.slots))}"
        self.slots += freed
