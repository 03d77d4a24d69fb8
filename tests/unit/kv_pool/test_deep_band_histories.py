"""No history of the deep band loses, doubles or moves a slot: its books against a model of dicts and lists."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sglang_speed.config import SpeedConfig
from sglang_speed.kv_pool.deep_band import Admission, DeepBand
from sglang_speed.policies import SpeedPolicy
from tests.unit.kv_pool.simple_allocator import SimpleAllocator

NUM_ROWS, WIDTH = 8, 20


@dataclass
class ModelRow:
    """slots: in order of position, those of the anchors first. reads: the key of the shared anchors among them."""

    num_tokens: int
    gap: int
    slots: list[int]
    reads: Hashable | None


@dataclass
class Model:
    """Who owns what. unused: keys of anchors that no row reads, the one that was read longest ago first."""

    capacity: int
    rows: dict[int, ModelRow] = field(default_factory=dict)
    anchors: dict[Hashable, list[int]] = field(default_factory=dict)
    unused: list[Hashable] = field(default_factory=list)
    num_evicted: int = 0

    @property
    def owned(self) -> list[int]:
        """Slots of all owners, shared ones once."""
        shared = [slot for slots in self.anchors.values() for slot in slots]
        private = [slot for row in self.rows.values() for slot in row.slots[self.num_shared(row) :]]
        return shared + private

    @property
    def num_free(self) -> int:
        return self.capacity - len(self.owned)

    @property
    def num_available(self) -> int:
        return self.num_free + sum(len(self.anchors[key]) for key in self.unused)

    def num_shared(self, row: ModelRow) -> int:
        return 0 if row.reads is None else len(self.anchors[row.reads])

    def read(self, key: Hashable) -> None:
        if key in self.unused:
            self.unused.remove(key)

    def release(self, number: int) -> None:
        row = self.rows.pop(number)
        if row.reads is not None and all(other.reads != row.reads for other in self.rows.values()):
            self.unused.append(row.reads)

    def make_room(self, num_slots: int, num_free: int) -> int:
        """Evict until `num_slots` of `num_free` and what is evicted are free, or nothing is left to evict."""
        while num_free < num_slots and self.unused:
            given_up = len(self.anchors.pop(self.unused.pop(0)))
            num_free += given_up
            self.num_evicted += given_up
        return num_free


@dataclass(frozen=True)
class Newcomer:
    """A request to admit. num_generated: tokens it had when it was retracted. first_chunk: share of it in the first
    forward."""

    prompt_len: int
    num_generated: int
    scored_from: int | None
    first_chunk: float
    first_token: int | None


NEWCOMERS = st.builds(
    Newcomer,
    prompt_len=st.integers(1, 12).map(lambda length: 13 - length),
    num_generated=st.sampled_from([0, 0, 0, 1, 4]),
    scored_from=st.sampled_from([None, None, None, 12, 5, 0]),
    first_chunk=st.sampled_from([1.0, 1.0, 0.5, 0.1]),
    first_token=st.sampled_from([0, 1, 2, 3, 4, 5, 6, None]),
)


class DeepBandMachine(RuleBasedStateMachine):
    @initialize(
        capacity=st.integers(12, 40), anchor_tokens=st.sampled_from([0, 1, 2, 4]), tail_tokens=st.integers(1, 4)
    )
    def build(self, capacity: int, anchor_tokens: int, tail_tokens: int) -> None:
        self.policy = SpeedPolicy(SpeedConfig(8, 6, anchor_tokens=anchor_tokens, tail_tokens=tail_tokens))
        self.deep = DeepBand(self.policy, SimpleAllocator(capacity), NUM_ROWS, WIDTH, "cpu")
        self.model = Model(capacity)

    @rule(newcomer=NEWCOMERS, stays=st.booleans())
    def admit_one(self, newcomer: Newcomer, stays: bool) -> None:
        """Many come and go at once, and leave their anchors."""
        number = next(iter(self._free_rows()), None)
        self.admit([newcomer])
        if not stays and number in self.model.rows:
            self.deep.release(number)
            self.model.release(number)

    @rule(newcomers=st.lists(NEWCOMERS, min_size=2, max_size=4))
    def admit(self, newcomers: list[Newcomer]) -> None:
        """As many of them as have a row and are sure to find their slots."""
        room, admissions = self.model.num_available, list[Admission]()
        for number, newcomer in zip(self._free_rows(), newcomers, strict=False):
            admission = self._admission(number, newcomer)
            length = admission.deep.num_before(admission.num_tokens)
            room -= length
            if room >= 0 and length <= WIDTH:
                admissions.append(admission)
        self.deep.admit(admissions)
        self._expect_admitted(admissions)

    def _free_rows(self) -> list[int]:
        return [number for number in range(1, NUM_ROWS) if number not in self.model.rows]

    def _admission(self, number: int, newcomer: Newcomer) -> Admission:
        scored_from = None if newcomer.scored_from is None else min(newcomer.scored_from, newcomer.prompt_len)
        deep = self.policy.deep_tokens(newcomer.prompt_len, scored_from)
        num_tokens = newcomer.prompt_len + newcomer.num_generated
        is_shared = newcomer.first_token is not None and 0 < deep.num_anchors == self.policy.config.anchor_tokens
        key = (None, newcomer.first_token) if is_shared else None
        return Admission(number, deep, num_tokens, max(1, int(newcomer.first_chunk * num_tokens)), key)

    def _expect_admitted(self, admissions: list[Admission]) -> None:
        """Anchors are pinned first, then slots are taken one request after the other, then anchors are published."""
        model, num_free = self.model, self.model.num_free
        hits = {each.row: each.anchor_key for each in admissions if each.anchor_key in model.anchors}
        for key in hits.values():
            model.read(key)
        for each in admissions:
            length = each.deep.num_before(each.num_tokens)
            taken = length - (each.deep.num_anchors if each.row in hits else 0)
            num_free = model.make_room(taken, num_free) - taken
            assert num_free >= 0
            slots = self.deep.table[each.row, :length].tolist()
            reads = hits.get(each.row)
            if reads is not None:
                assert slots[: each.deep.num_anchors] == model.anchors[reads]
            model.rows[each.row] = ModelRow(each.num_tokens, each.deep.gap, slots, reads)
        for each in admissions:
            self._expect_published(each)

    def _expect_published(self, admission: Admission) -> None:
        """Anchors that one forward has computed are shared, by the first that has them."""
        key, num_anchors = admission.anchor_key, admission.deep.num_anchors
        if key is not None and key not in self.model.anchors and admission.first_chunk_end >= num_anchors:
            row = self.model.rows[admission.row]
            self.model.anchors[key], row.reads = row.slots[:num_anchors], key

    @precondition(lambda self: self.model.rows)
    @rule(data=st.data())
    def decode(self, data: st.DataObject) -> None:
        """One step of some rows, if it fits."""
        numbers = [number for number, row in self.model.rows.items() if len(row.slots) < WIDTH]
        numbers = data.draw(st.lists(st.sampled_from(numbers), unique=True)) if numbers else []
        fits = self.deep.reclaim(len(numbers))
        assert fits == (self.model.make_room(len(numbers), self.model.num_free) >= len(numbers))
        if not fits:
            return
        seq_lens = torch.tensor([self.model.rows[number].num_tokens for number in numbers], dtype=torch.int64)
        self.deep.extend_by_one(numbers, torch.tensor(numbers, dtype=torch.int64), seq_lens)
        for number in numbers:
            row = self.model.rows[number]
            row.slots.append(int(self.deep.table[number, row.num_tokens - row.gap]))
            row.num_tokens += 1

    @precondition(lambda self: self.model.rows)
    @rule(which=st.integers(0, NUM_ROWS))
    def release(self, which: int) -> None:
        number = sorted(self.model.rows)[which % len(self.model.rows)]
        self.deep.release(number)
        self.model.release(number)

    @rule(missing=st.integers(-1, 8))
    def reclaim(self, missing: int) -> None:
        """Some more slots than are free, so that a few of the unused anchors must go."""
        num_slots = max(0, self.model.num_free + missing)
        fits = self.deep.reclaim(num_slots)
        assert fits == (self.model.make_room(num_slots, self.model.num_free) >= num_slots)

    @rule(really=st.integers(0, 9))
    def clear(self, really: int) -> None:
        """Now and then; else a row that was never admitted is released, which does nothing."""
        if really == 9:
            self.deep.clear()
            self.model = Model(self.model.capacity, num_evicted=self.model.num_evicted)
        for number in self._free_rows():
            self.deep.release(number)

    @invariant()
    def the_books_are_the_models(self) -> None:
        deep, model = self.deep, self.model
        assert not list(self._differences())
        deep.check_integrity()
        assert (deep.num_used, deep.num_available) == (model.capacity - model.num_free, model.num_available)
        assert deep.counters.evicted_tokens == model.num_evicted

    def _differences(self) -> Iterator[str]:
        owned = self.model.owned
        if len(set(owned)) != len(owned) or not set(owned) <= set(range(1, self.model.capacity + 1)):
            yield f"owned by several, or no slots: {sorted(owned)}"
        anchors = {key: entry.slots.tolist() for key, entry in self.deep.anchors.entries.items()}
        if anchors != self.model.anchors:
            yield f"{anchors=}, expected {self.model.anchors}"
        if set(self.deep.rows) != set(self.model.rows):
            yield f"rows {sorted(self.deep.rows)}, expected {sorted(self.model.rows)}"
        for number, row in self.model.rows.items():
            found = self.deep.table[number, : self.deep.rows[number].length].tolist()
            if (found, int(self.deep.gap[number])) != (row.slots, row.gap):
                yield f"row {number}: {found} with gap {int(self.deep.gap[number])}, expected {row}"


def play(histories: int, is_random: bool) -> None:
    run_state_machine_as_test(
        DeepBandMachine,
        settings=settings(
            max_examples=histories,
            stateful_step_count=100,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            derandomize=not is_random,
            print_blob=True,
        ),
    )


def test_no_history_loses_doubles_or_moves_a_slot() -> None:
    play(histories=120, is_random=False)


@pytest.mark.slow
def test_no_long_history_loses_doubles_or_moves_a_slot() -> None:
    """--hypothesis-seed repeats it; hypothesis prints the seed of a failure."""
    play(histories=2000, is_random=True)
