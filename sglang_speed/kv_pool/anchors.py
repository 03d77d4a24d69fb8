"""Anchors' deep KV, shared by all requests that begin with the same tokens.

Owns the slots of its entries. An entry in use (`num_users > 0`) is never evicted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

from torch import Tensor


@dataclass
class AnchorEntry:
    """Deep KV of one sequence of anchors.

    slots: [num_anchors], int64, in position order.
    num_users: requests that read it.
    """

    slots: Tensor
    num_users: int = 0

    @property
    def num_slots(self) -> int:
        return int(self.slots.numel())


class AnchorRegistry:
    """Entries by (namespace, first tokens), least recently used first; at most `max_slots` slots."""

    def __init__(self, max_slots: int) -> None:
        self.max_slots = max_slots
        self.entries: OrderedDict[Hashable, AnchorEntry] = OrderedDict()
        self.num_slots = 0
        self.num_evictable = 0
        """Slots of entries that nobody reads."""

    def __contains__(self, key: Hashable) -> bool:
        return key in self.entries

    def acquire(self, key: Hashable) -> AnchorEntry:
        """Begin to read an entry, which pins it; KeyError where there is none."""
        entry = self.entries[key]
        if entry.num_users == 0:
            self.num_evictable -= entry.num_slots
        entry.num_users += 1
        self.entries.move_to_end(key)
        return entry

    def release(self, entry: AnchorEntry) -> None:
        assert entry.num_users > 0, f"released more often than acquired: {entry.num_users=}"
        entry.num_users -= 1
        if entry.num_users == 0:
            self.num_evictable += entry.num_slots

    def can_publish(self, key: Hashable, num_slots: int) -> bool:
        """Whether an entry of `num_slots` may be added without eviction."""
        return key not in self.entries and self.num_slots + num_slots <= self.max_slots

    def publish(self, key: Hashable, slots: Tensor) -> AnchorEntry:
        """Take ownership of freshly computed anchors; the publisher becomes the first user."""
        assert self.can_publish(key, int(slots.numel())), f"{key=} is there already or {self.max_slots=} is reached"
        entry = AnchorEntry(slots, num_users=1)
        self.entries[key] = entry
        self.num_slots += entry.num_slots
        return entry

    def evict(self, num_slots: int) -> list[Tensor]:
        """Drop unused entries, oldest first, until `num_slots` slots are given up or none is left to drop.

        Returns the slots, which the caller now owns.
        """
        evicted: list[Tensor] = []
        for key in [key for key, entry in self.entries.items() if entry.num_users == 0]:
            if num_slots <= 0:
                break
            entry = self.entries.pop(key)
            evicted.append(entry.slots)
            num_slots -= entry.num_slots
            self.num_slots -= entry.num_slots
            self.num_evictable -= entry.num_slots
        return evicted

    def clear(self) -> None:
        self.entries.clear()
        self.num_slots = self.num_evictable = 0
