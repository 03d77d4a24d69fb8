"""One deep band's bookkeeping: which request owns which slots, and where a deep token stands.

Every live request row owns the slots of its deep tokens; those of its whole prompt are taken when it is
admitted, so that a prompt prefilled in chunks can never find the pool empty half-way. Decode takes one more
per step. Everything goes back when the row is released, whatever the reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from sglang_speed.errors import IntegrityError, raise_violations
from sglang_speed.kv_pool.anchors import AnchorEntry, AnchorRegistry
from sglang_speed.kv_pool.counters import DeepBandCounters
from sglang_speed.method.bands import DEEP
from sglang_speed.method.deep_tokens import Context, DeepTokens
from sglang_speed.policies import DepthPolicy


class SlotAllocator(Protocol):
    """What a deep band needs of an allocator; SGLang's page-size-1 allocator is one. Slot 0 is padding.

    free_pages, release_pages: together the free slots, int64.
    """

    size: int
    free_pages: Tensor
    release_pages: Tensor

    def alloc(self, need_size: int) -> Tensor | None: ...

    def free(self, free_index: Tensor) -> None: ...

    def available_size(self) -> int: ...

    def clear(self) -> None: ...

    def get_kvcache(self) -> Any: ...


@dataclass(frozen=True)
class Admission:
    """A request that enters a deep band.

    row: its line in the request table.
    deep: its deep tokens.
    num_tokens: tokens to prefill, prompt and (after a retraction) generated ones.
    first_chunk_end: where its first forward ends.
    anchor_key: what its anchors depend on, None where they must not be shared.
    reuses_anchors: whether it takes shared anchors that are there; otherwise it computes its own.
    lost_anchors: token ids of those of its own that stand in the prefix that it reuses.
    """

    row: int
    deep: DeepTokens
    num_tokens: int
    first_chunk_end: int
    anchor_key: Hashable | None
    reuses_anchors: bool = True
    lost_anchors: tuple[int, ...] = ()


@dataclass
class RowState:
    """A live row. `table[row, :length]` has the slots of what it sees: anchors, which belong to `anchors` before
    `first_owned`; what is filled in, in slots of the main pool; all else is its own. With drafts the last ones may be
    places for tokens to come.

    filled_to: place before which everything that is filled in is in the table.
    lost_anchors: token ids of the first anchors, which the next forward of the row computes by themselves.
    """

    deep: DeepTokens
    length: int
    first_owned: int = 0
    anchors: AnchorEntry | None = None
    anchors_cached: bool = False
    filled_to: int = 0
    lost_anchors: tuple[int, ...] = ()

    @property
    def filled(self) -> list[slice]:
        """Places of tokens whose KV is filled in, in order; none where they are invisible."""
        if not self.deep.is_filled:
            return []
        edges = [0, *(edge for run in self.deep.runs for edge in (run.start, run.stop)), self.deep.deep_start]
        return [slice(*edges[index : index + 2]) for index in range(0, len(edges), 2)]

    @property
    def owned(self) -> list[slice]:
        """Places of the row's own slots, in order: all but the filled ones, and but anchors that belong to others."""
        edges = [self.first_owned, self.length]
        for places in self.filled:
            edges[-1:-1] = [max(places.start, self.first_owned), max(places.stop, self.first_owned)]
        return [slice(*edges[index : index + 2]) for index in range(0, len(edges), 2)]

    @property
    def num_owned(self) -> int:
        return sum(places.stop - places.start for places in self.owned)

    def num_visible_before(self, position: int) -> int:
        return self.deep.num_visible_before(position, self.anchors_cached)


class DeepBand:
    """Slots, request table and anchors of one deep band.

    policy: which tokens of a request are deep here.
    table: [num_rows, width], int32, on the device: slot of the j-th token that a row sees.
    gap: [num_rows], int64, on the device; `gap_cpu` is its copy. In decode a row sees `n - gap` tokens.
    name: of the band, as in `method.bands`. counters: what happened in it.
    grows: whether tokens behind the context are in the band; otherwise requests leave it when they begin to decode.
    num_ahead: places that a request has behind its tokens while it decodes: for drafts, which may be rejected; 0 where
        each step gives one token.
    first_filled: slot of the band's pool that belongs to slot 0 of the main pool, whose slots follow it in their order;
        None where nothing is filled in.
    """

    def __init__(
        self,
        policy: DepthPolicy,
        allocator: SlotAllocator,
        num_rows: int,
        width: int,
        device: str,
        name: str = DEEP,
        grows: bool = True,
        page_size: int = 1,
        num_ahead: int = 0,
    ) -> None:
        """page_size: of the main pool."""
        self.name = name
        self.policy = policy
        self.grows = grows
        self.num_ahead = num_ahead
        own_pages = allocator.size // page_size + 1  # a page of the main pool is whole here too
        self.first_filled = own_pages * page_size if policy.is_filled else None
        self.counters = DeepBandCounters()
        self.allocator = allocator
        self.width = width
        self.table = torch.zeros((num_rows, width), dtype=torch.int32, device=device)
        self.gap = torch.zeros(num_rows, dtype=torch.int64, device=device)
        self.gap_cpu = torch.zeros(num_rows, dtype=torch.int64)
        self.rows: dict[int, RowState] = {}
        self.anchors = AnchorRegistry()

    @property
    def num_rows(self) -> int:
        """Requests that can have a row; row 0 is padding."""
        return len(self.table) - 1

    @property
    def capacity(self) -> int:
        return self.allocator.size

    @property
    def num_used(self) -> int:
        return self.capacity - self.allocator.available_size()

    @property
    def num_in_use(self) -> int:
        """Slots of requests, and of the anchors that they read."""
        return self.capacity - self.num_available

    @property
    def num_available(self) -> int:
        """Slots that can be allocated now: free ones, and those of unused anchors."""
        return self.allocator.available_size() + self.anchors.num_evictable

    @property
    def max_request_len(self) -> int:
        """Slots of its own that one request can have at most."""
        return min(self.width, self.capacity)

    def admit(self, admissions: Sequence[Admission]) -> None:
        """Give each request its row: anchors, then slots for all of its prompt's deep tokens.

        Anchors are pinned for the whole batch before any slot is taken, and published after: two requests
        that start cold in one batch each compute their own.
        """
        for admission in admissions:
            self.rows[admission.row] = self._new_row(admission)
        for admission in admissions:
            self._fill_row(admission)
        for admission in admissions:
            self._publish_anchors(admission)

    def _new_row(self, admission: Admission) -> RowState:
        assert admission.row not in self.rows, f"row {admission.row} is already in use"
        state = RowState(admission.deep, length=0, lost_anchors=admission.lost_anchors)
        if admission.reuses_anchors and admission.anchor_key in self.anchors:
            state.anchors = self.anchors.acquire(admission.anchor_key)
            state.anchors_cached = True
            state.first_owned = admission.deep.num_anchors
        return state

    def _fill_row(self, admission: Admission) -> None:
        row, state = admission.row, self.rows[admission.row]
        state.length = state.num_visible_before(admission.num_tokens if self.grows else _context_of(state.deep).end)
        assert state.length <= self.width, f"row {row} wants {state.length} deep tokens, the table holds {self.width}"
        if state.anchors is not None:
            self.table[row, : state.first_owned] = state.anchors.slots.to(torch.int32)
        slots = self._take(state.num_owned).to(torch.int32)
        lengths = [places.stop - places.start for places in state.owned]
        for places, taken in zip(state.owned, torch.split(slots, lengths), strict=True):
            self.table[row, places] = taken
        self.gap_cpu[row] = state.deep.gap
        self.gap[row] = state.deep.gap

    def _publish_anchors(self, admission: Admission) -> None:
        """Share anchors that this forward computes to the end; a chunk that ends among them keeps them."""
        state, num_anchors = self.rows[admission.row], admission.deep.num_anchors
        key = admission.anchor_key
        if key is None or key in self.anchors or admission.first_chunk_end < num_anchors:
            return
        state.anchors = self.anchors.publish(key, self.table[admission.row, :num_anchors].long())
        state.first_owned = num_anchors

    def fill(self, row: int, places: slice, main_slots: Tensor) -> None:
        """Let a row see what is filled in at `places`, as far as they are not its own.

        main_slots: [places.stop - places.start], of the main pool, in which the tokens at these places lie.
        """
        state = self.rows.get(row)
        if self.first_filled is None or state is None:
            return
        for filled in state.filled:
            first, end = max(places.start, filled.start), min(places.stop, filled.stop)
            if first < end:
                self.table[row, first:end] = main_slots[first - places.start : end - places.start] + self.first_filled
                state.filled_to = max(state.filled_to, end)

    def extend_by_one(self, rows: Sequence[int], rows_device: Tensor, seq_lens: Tensor) -> None:
        """Take a slot for the next token of each row.

        rows_device: [batch], the same rows on the device. seq_lens: [batch], tokens so far, on the device.
        """
        slots = self._take(len(rows))
        for row in rows:
            self.rows[row].length += 1
            assert self.rows[row].length <= self.width, f"row {row} outgrew the deep table of {self.width} columns"
        self.table[rows_device, seq_lens - self.gap[rows_device]] = slots.to(torch.int32)

    def num_missing(self, rows: Sequence[int], num_tokens: Sequence[int]) -> int:
        """Slots that rows of so many tokens need for a step: one each, or what drafts may take as well."""
        return sum(self._missing(rows, num_tokens)) if self.num_ahead else len(rows)

    def make_room_ahead(self, rows: Sequence[int], num_tokens: Sequence[int]) -> None:
        """Take what `num_missing` says; slots of drafts that were rejected are used again."""
        missing = self._missing(rows, num_tokens)
        slots = self._take(sum(missing)).to(torch.int32)
        lines = np.repeat(np.asarray(rows, dtype=np.int64), missing)
        ends = [self.rows[row].length for row in rows]
        places = [np.arange(end, end + num_new) for end, num_new in zip(ends, missing, strict=True)]
        device = self.table.device
        index = [torch.from_numpy(each).to(device, non_blocking=True) for each in (lines, np.concatenate(places))]
        self.table[index[0], index[1]] = slots
        for row, num_new in zip(rows, missing, strict=True):
            self.rows[row].length += num_new

    def _missing(self, rows: Sequence[int], num_tokens: Sequence[int]) -> list[int]:
        wanted = (n - self.rows[row].deep.gap + self.num_ahead for row, n in zip(rows, num_tokens, strict=True))
        lengths = (self.rows[row].length for row in rows)
        return [max(0, min(want, self.width) - length) for want, length in zip(wanted, lengths, strict=True)]

    def num_slots_for(self, deep: DeepTokens, num_tokens: int, to_come: int = 0) -> int:
        """Slots that a request of `num_tokens` tokens takes, its prompt among them, what it may yet generate, and its
        drafts."""
        if not self.grows:
            return _context_of(deep).num_deep
        return deep.num_before(num_tokens) + to_come + self.num_ahead

    def end_contexts(self, rows: Sequence[int]) -> bool:
        """Take back what rows own in a band that does not grow: what they decode does not see it. Returns whether they
        owned anything."""
        owning = [row for row in rows if self.rows[row].length]
        for row in owning:
            self.allocator.free(self._owned_by(row, self.rows[row]))
            self.rows[row].length = 0
        return bool(owning)

    def release(self, row: int) -> None:
        """Give back everything that a row owns; nothing happens for a row that was never admitted."""
        state = self.rows.pop(row, None)
        if state is None:
            return
        if state.anchors is not None:
            self.anchors.release(state.anchors)
        self.allocator.free(self._owned_by(row, state))

    def reclaim(self, num_slots: int) -> bool:
        """Make `num_slots` slots free, by dropping unused anchors if need be. Returns whether they are."""
        missing = num_slots - self.allocator.available_size()
        if missing > 0:
            for slots in self.anchors.evict(missing):
                self.allocator.free(slots)
                self.counters.evicted_tokens += slots.numel()
        return self.allocator.available_size() >= num_slots

    def clear(self) -> None:
        """Forget every row and every anchor."""
        self.rows.clear()
        self.anchors.clear()
        self.allocator.clear()

    def _take(self, num_slots: int) -> Tensor:
        self.reclaim(num_slots)
        slots = self.allocator.alloc(num_slots)
        if slots is None:
            raise IntegrityError(
                f"the {self.name} band has {self.allocator.available_size()} free slots of {self.capacity} and "
                f"{num_slots} are wanted by rows that were admitted; {len(self.rows)} rows own "
                f"{self._num_owned_by_rows()}"
            )
        return slots

    def _owned_by(self, row: int, state: RowState) -> Tensor:
        return torch.cat([self.table[row, places] for places in state.owned]).long()

    def _num_owned_by_rows(self) -> int:
        return sum(state.num_owned for state in self.rows.values())

    def check_integrity(self) -> None:
        """Raise IntegrityError with both sides of every sum that does not hold."""
        raise_violations(f"{self.name} band", self.violations())

    def violations(self) -> Iterator[str]:
        yield from self._slot_violations()
        yield from self._row_violations()
        yield from self._user_violations()
        yield from self.anchors.violations()

    def _slot_violations(self) -> Iterator[str]:
        """Every slot from 1 to capacity has one owner: the free list, a row or an anchor."""
        free, owned, shared = self.allocator.available_size(), self._num_owned_by_rows(), self.anchors.num_slots
        if free + owned + shared != self.capacity:
            yield f"{free=} + {owned=} by rows + {shared=} by anchors != capacity {self.capacity}"
        held = [self._owned_by(row, state) for row, state in self.rows.items()]
        held += [entry.slots for entry in self.anchors.entries.values()]
        slots = torch.cat([*held, self.allocator.free_pages, self.allocator.release_pages]).cpu()
        outside = slots[(slots < 1) | (slots > self.capacity)]
        if outside.numel():
            yield f"slots {outside[:8].tolist()} are not within 1..{self.capacity}"
            return
        num_owners = torch.bincount(slots, minlength=self.capacity + 1)
        if bool((num_owners > 1).any()):
            doubled, num_distinct = (num_owners > 1).nonzero().flatten().tolist(), int((num_owners > 0).sum())
            yield f"{len(slots)} slots are held, only {num_distinct} of them distinct: {doubled[:8]} are held twice"

    def _row_violations(self) -> Iterator[str]:
        for row, state in self.rows.items():
            if not 0 <= state.first_owned <= state.length <= self.width:
                yield f"row {row}: first_owned={state.first_owned}, length={state.length}, width={self.width}"
            gap, gap_cpu = int(self.gap[row]), int(self.gap_cpu[row])
            if not gap == gap_cpu == state.deep.gap:
                yield f"row {row}: gap {state.deep.gap}, but {gap=} and {gap_cpu=} in the tables"

    def filled_violations(self, main_table: Tensor) -> Iterator[str]:
        """What is filled in for a row lies where its tokens lie in the main pool."""
        for row, state in self.rows.items():
            for filled in state.filled:
                places = slice(filled.start, max(filled.start, min(filled.stop, state.filled_to)))
                if self.first_filled is not None and not torch.equal(
                    self.table[row, places], main_table[row, places] + self.first_filled
                ):
                    yield f"row {row}: what is filled in at {places} does not lie where the main table says"

    def _user_violations(self) -> Iterator[str]:
        users = Counter(id(state.anchors) for state in self.rows.values() if state.anchors is not None)
        for key, entry in self.anchors.entries.items():
            if users[id(entry)] != entry.num_users:
                yield f"anchors {key}: num_users {entry.num_users} != {users[id(entry)]} rows that read them"


def _context_of(deep: DeepTokens) -> Context:
    assert deep.context is not None, "a band that does not grow has contexts only"
    return deep.context
