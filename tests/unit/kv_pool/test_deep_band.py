"""The deep band's bookkeeping, without SGLang: every slot has one owner, whatever happens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sglang_speed.config import SpeedConfig
from sglang_speed.errors import IntegrityError
from sglang_speed.kv_pool.deep_band import Admission, DeepBand
from sglang_speed.policies import SpeedPolicy
from tests.unit.kv_pool.simple_allocator import SimpleAllocator

POLICY = SpeedPolicy(SpeedConfig(8, 6, anchor_tokens=2, tail_tokens=3))
KEY = (None, (0, 7))


def band(size: int = 64, num_rows: int = 9, width: int = 32) -> DeepBand:
    return DeepBand(POLICY, SimpleAllocator(size), num_rows, width, "cpu")


def admission(row: int, prompt_len: int = 20, key: object = KEY, first_chunk_end: int | None = None) -> Admission:
    deep = POLICY.deep_tokens(prompt_len)
    return Admission(row, deep, prompt_len, prompt_len if first_chunk_end is None else first_chunk_end, key)


def step(deep: DeepBand, row: int, num_tokens: int) -> None:
    """One decode step of a row that has `num_tokens` tokens."""
    rows = torch.tensor([row])
    deep.extend_by_one([row], rows, torch.tensor([num_tokens]))


def test_a_cold_request_takes_slots_for_its_anchors_and_its_tail() -> None:
    deep = band()
    deep.admit([admission(1)])
    assert deep.num_used == 2 + 3
    assert deep.rows[1].length == 5
    assert deep.gap[1] == deep.gap_cpu[1] == 20 - 3 - 2
    deep.check_integrity()


def test_a_second_request_shares_the_anchors_of_the_first() -> None:
    deep = band()
    deep.admit([admission(1)])
    deep.admit([admission(2)])
    assert deep.num_used == 2 + 3 + 3
    assert deep.rows[2].anchors_cached
    assert torch.equal(deep.table[1, :2], deep.table[2, :2])


def test_requests_that_start_cold_together_each_compute_their_own_anchors() -> None:
    deep = band()
    deep.admit([admission(1), admission(2)])
    assert not deep.rows[1].anchors_cached
    assert not deep.rows[2].anchors_cached
    assert not set(deep.table[1, :5].tolist()) & set(deep.table[2, :5].tolist())
    deep.check_integrity()


def test_lost_anchors_are_the_rows_own_until_they_are_computed_and_shared_from_the_start() -> None:
    """A chunk that begins behind them has them all."""
    deep = band()
    lost = replace(admission(1), lost_anchors=(0, 7))
    deep.admit([lost])
    assert deep.rows[1].lost_anchors == (0, 7)
    assert not deep.rows[1].anchors_cached
    deep.admit([admission(2)])
    assert deep.num_used == 2 + 3 + 3
    assert torch.equal(deep.table[1, :2], deep.table[2, :2])


def test_a_chunk_that_ends_among_the_anchors_keeps_them_private() -> None:
    deep = band()
    deep.admit([admission(1, first_chunk_end=1)])
    assert KEY not in deep.anchors
    deep.release(1)
    assert deep.num_used == 0


def test_anchors_outlive_their_request_and_are_all_that_is_left_when_idle() -> None:
    deep = band()
    deep.admit([admission(1)])
    step(deep, 1, 20)
    deep.release(1)
    assert deep.num_used == 2 == deep.anchors.num_slots
    assert deep.num_in_use == 0
    deep.check_integrity()


def test_decode_appends_where_the_length_less_the_gap_says() -> None:
    deep = band()
    deep.admit([admission(1)])
    step(deep, 1, 20)
    assert deep.rows[1].length == 6
    assert deep.table[1, 5] != 0
    deep.check_integrity()


def test_used_anchors_are_never_evicted_and_unused_ones_give_way() -> None:
    deep = band(size=10)
    deep.admit([admission(1)])
    assert not deep.reclaim(6)
    deep.release(1)
    assert deep.num_available == 10
    assert deep.reclaim(10)
    assert KEY not in deep.anchors


def test_unused_anchors_fill_what_is_free_and_the_oldest_gives_way() -> None:
    deep = band(size=64)
    for number in range(40):
        deep.admit([admission(1, key=(None, (0, number)))])
        deep.release(1)
        deep.check_integrity()
    assert deep.num_available == 64
    assert deep.num_in_use == 0
    assert deep.anchors.num_slots == 60, "with 62 the next request would not find its five slots"
    assert (None, (0, 39)) in deep.anchors
    assert (None, (0, 0)) not in deep.anchors
    assert deep.counters.evicted_tokens == 2 * 40 - 60


def test_anchors_that_were_read_lately_are_evicted_last() -> None:
    deep = band(size=9)
    for row, number in [(1, 0), (2, 1)]:
        deep.admit([admission(row, key=(None, (0, number)))])
        deep.release(row)
    deep.admit([admission(3, key=(None, (0, 0)))])
    deep.release(3)
    deep.reclaim(6)
    assert (None, (0, 0)) in deep.anchors
    assert (None, (0, 1)) not in deep.anchors


def test_without_a_key_anchors_are_never_shared() -> None:
    deep = band()
    deep.admit([admission(1, key=None)])
    deep.admit([admission(2, key=None)])
    assert deep.num_used == 10
    assert not deep.anchors.entries


def test_running_out_of_slots_is_an_integrity_error_with_numbers() -> None:
    deep = band(size=4)
    with pytest.raises(IntegrityError, match="4 free slots of 4 and 5 are wanted"):
        deep.admit([admission(1)])


def test_a_lost_slot_is_reported_with_both_sides_of_the_sum() -> None:
    deep = band()
    deep.admit([admission(1)])
    deep.rows[1].length -= 1
    with pytest.raises(IntegrityError, match="!= capacity 64"):
        deep.check_integrity()


def test_a_slot_owned_twice_is_reported() -> None:
    deep = band()
    deep.admit([admission(1, key=None), admission(2, key=None)])
    deep.table[2, 4] = slot = int(deep.table[1, 4])
    with pytest.raises(
        IntegrityError, match=rf"64 slots are held, only 63 of them distinct: \[{slot}\] are held twice"
    ):
        deep.check_integrity()


def test_a_slot_both_free_and_owned_is_reported() -> None:
    deep = band()
    deep.admit([admission(1)])
    deep.allocator.free_pages[-1] = deep.table[1, 2]
    with pytest.raises(IntegrityError, match="only 63 of them distinct"):
        deep.check_integrity()


def test_a_slot_outside_the_pool_is_reported() -> None:
    deep = band()
    deep.admit([admission(1)])
    deep.table[1, 4] = 0
    with pytest.raises(IntegrityError, match=r"slots \[0\] are not within 1\.\.64"):
        deep.check_integrity()


def test_a_wrong_gap_is_reported() -> None:
    deep = band()
    deep.admit([admission(1)])
    deep.gap[1] += 1
    with pytest.raises(IntegrityError, match="row 1: gap 15, but gap=16 and gap_cpu=15"):
        deep.check_integrity()


def test_every_violation_is_reported_at_once() -> None:
    deep = band()
    deep.admit([admission(1)])
    deep.rows[1].anchors = None
    deep.gap_cpu[1] = 0
    with pytest.raises(IntegrityError, match=r"gap_cpu=0 .*; anchors .* num_users 1 != 0 rows"):
        deep.check_integrity()


def test_a_wrong_count_of_anchors_is_reported() -> None:
    deep = band()
    deep.admit([admission(1)])
    deep.anchors.num_evictable += 1
    with pytest.raises(IntegrityError, match="2 slots, 1 evictable, their entries say 2 and 0"):
        deep.anchors.check_integrity()


def test_clearing_forgets_rows_and_anchors() -> None:
    deep = band()
    deep.admit([admission(1)])
    deep.clear()
    assert (deep.num_used, deep.rows, len(deep.anchors.entries)) == (0, {}, 0)


def test_room_for_drafts_is_made_once_and_used_again() -> None:
    """16 places behind what is known; a step of which 3 tokens were accepted takes 3 more."""
    deep = DeepBand(POLICY, SimpleAllocator(64), 9, 32, "cpu", num_ahead=16)
    deep.admit([admission(1), admission(2, prompt_len=9)])
    assert deep.num_missing([1, 2], [20, 9]) == 32
    deep.make_room_ahead([1, 2], [20, 9])
    assert [deep.rows[row].length for row in (1, 2)] == [21, 21]
    slots = deep.table[1, :21].tolist()
    deep.check_integrity()
    deep.make_room_ahead([1, 2], [23, 9])
    assert [deep.rows[row].length for row in (1, 2)] == [24, 21]
    assert deep.table[1, :21].tolist() == slots
    assert len(set(deep.table[1, :24].tolist())) == 24
    deep.check_integrity()
    deep.release(1)
    deep.release(2)
    assert deep.num_in_use == 0


def test_room_for_drafts_ends_with_the_table() -> None:
    deep = DeepBand(POLICY, SimpleAllocator(64), 9, 32, "cpu", num_ahead=16)
    deep.admit([admission(1)])
    deep.make_room_ahead([1], [40])
    assert deep.rows[1].length == 32
    assert deep.num_missing([1], [47]) == 0


def test_a_request_with_drafts_needs_their_places_too() -> None:
    deep = DeepBand(POLICY, SimpleAllocator(64), 9, 32, "cpu", num_ahead=16)
    assert deep.num_slots_for(POLICY.deep_tokens(20), 20, to_come=4) == 5 + 4 + 16
