"""Anchors' deep KV, shared by all requests that begin with the same tokens.

Owns the slots of its entries. An entry in use (`num_users > 0`) is never evicted; unused ones stay for as long as
nobody needs their slots.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass

from torch import Tensor

from sglang_speed.errors import raise_violations


@dataclass
class AnchorEntry:
    """Deep KV of one sequence of anchors.

    key: namespace and first tokens.
    slots: [num_anchors], int64, in position order.
    num_users: requests that read it.
    """

    key: Hashable
    slots: Tensor
    num_users: int = 0

    @property
    def num_slots(self) -> int:
        return int(self.slots.numel())


class AnchorRegistry:
    """Entries by (namespace, first tokens).

    num_slots: slots of all entries. num_evictable: of those that nobody reads.
    """

    def __init__(self) -> None:
        self.entries: dict[Hashable, AnchorEntry] = {}
        self._unused: OrderedDict[Hashable, AnchorEntry] = OrderedDict()  # least recently used first
        self.num_slots = 0
        self.num_evictable = 0

    def __contains__(self, key: Hashable) -> bool:
        return key in self.entries

    def acquire(self, key: Hashable) -> AnchorEntry:
        """Begin to read an entry, which pins it; KeyError where there is none."""
        entry = self.entries[key]
        if self._unused.pop(key, None) is not None:
            self.num_evictable -= entry.num_slots
        entry.num_users += 1
        return entry

    def release(self, entry: AnchorEntry) -> None:
        assert entry.num_users > 0, f"released more often than acquired: {entry.num_users=}"
        entry.num_users -= 1
        if entry.num_users == 0:
            self._unused[entry.key] = entry
            self.num_evictable += entry.num_slots

    def publish(self, key: Hashable, slots: Tensor) -> AnchorEntry:
        """Take ownership of freshly computed anchors; the publisher becomes the first user."""
        assert key not in self.entries, f"{key=} is published already"
        entry = self.entries[key] = AnchorEntry(key, slots, num_users=1)
        self.num_slots += entry.num_slots
        return entry

    def evict(self, num_slots: int) -> list[Tensor]:
        """Drop unused entries, least recently used first, until `num_slots` slots are given up or none is left.

        Returns the slots, which the caller now owns.
        """
        evicted: list[Tensor] = []
        while num_slots > 0 and self._unused:
            key, entry = self._unused.popitem(last=False)
            del self.entries[key]
            evicted.append(entry.slots)
            num_slots -= entry.num_slots
            self.num_slots -= entry.num_slots
            self.num_evictable -= entry.num_slots
        return evicted

    def clear(self) -> None:
        self.entries.clear()
        self._unused.clear()
        self.num_slots = self.num_evictable = 0

    def check_integrity(self) -> None:
        """Raise IntegrityError with both sides of every sum that does not hold."""
        raise_violations("anchors", self.violations())

    def violations(self) -> Iterator[str]:
        unused = {key for key, entry in self.entries.items() if entry.num_users == 0}
        if unused != set(self._unused):
            yield f"anchors without users {sorted(map(str, unused))} != evictable ones {sorted(map(str, self._unused))}"
        num_slots = sum(entry.num_slots for entry in self.entries.values())
        num_unused = sum(self.entries[key].num_slots for key in unused)
        if (num_slots, num_unused) != (self.num_slots, self.num_evictable):
            counted = f"{self.num_slots} slots, {self.num_evictable} evictable"
            yield f"anchors count {counted}, their entries say {num_slots} and {num_unused}"
