"""Claims about KV memory on a CPU: page allocation without Triton, the pool, and its budget."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import torch
from sglang.srt.mem_cache.allocator.token import TokenToKVPoolAllocator
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool

from sglang_speed.platforms.cpu import MEM_FRACTION_STATIC
from sglang_speed.platforms.cpu.hooks import KV_BUDGET_BYTES, bound_kv_bytes
from sglang_speed.platforms.cpu.memory import CpuKVPool, build_allocator

NUM_PAGES = 24


class PagedRequests:
    """Requests that grow and end, and the slots that an allocator gave them."""

    def __init__(self, page_size: int) -> None:
        self.page_size = page_size
        self.allocator = build_allocator(
            NUM_PAGES * page_size,
            page_size=page_size,
            dtype=torch.float32,
            device="cpu",
            kvcache=None,
            need_sort=False,
        )
        self.slots: list[list[int]] = []

    def extend(self, extents: dict[int, int]) -> bool:
        """Grow requests by index; False, with nothing changed, where pages run out."""
        prefix = torch.tensor([len(self.slots[index]) for index in extents])
        lens = prefix + torch.tensor(list(extents.values()))
        last = torch.tensor([(self.slots[index] or [-1])[-1] for index in extents])
        slots = self.allocator.alloc_extend(prefix, prefix, lens, lens, last, sum(extents.values()))
        return self._append(extents, slots)

    def decode(self) -> bool:
        """Grow every request by one."""
        lens = torch.tensor([len(slots) + 1 for slots in self.slots])
        last = torch.tensor([slots[-1] for slots in self.slots], dtype=torch.int32)
        return self._append(dict.fromkeys(range(len(lens)), 1), self.allocator.alloc_decode(lens, lens, last))

    def end(self, index: int) -> None:
        self.allocator.free(torch.tensor(self.slots.pop(index)))

    def check(self) -> None:
        """Every position has the place in its page that it has in its request, and no page has two owners."""
        owner: dict[int, tuple[int, int]] = {}
        for index, slots in enumerate(self.slots):
            for position, slot in enumerate(slots):
                assert slot % self.page_size == position % self.page_size
                page_of_request = (index, position // self.page_size)
                assert owner.setdefault(slot // self.page_size, page_of_request) == page_of_request
        assert 0 not in owner, "page 0 takes the rows of padding"
        assert self.allocator.available_size() == (NUM_PAGES - len(owner)) * self.page_size

    def _append(self, extents: dict[int, int], slots: torch.Tensor | None) -> bool:
        if slots is None:
            return False
        assert slots.dtype == torch.int64
        taken = iter(slots.tolist())
        for index, num_new in extents.items():
            self.slots[index] += [next(taken) for _ in range(num_new)]
        return True


@pytest.mark.parametrize("page_size", [2, 16])
@pytest.mark.parametrize("seed", range(4))
def test_pages_keep_their_order_and_their_owner(page_size: int, seed: int) -> None:
    draw, requests = random.Random(seed), PagedRequests(page_size)
    refusals = 0
    for _ in range(80):
        action = draw.choice(["start", "start", "extend", "decode", "decode", "end"])
        if action == "start":
            requests.slots.append([])
            if not requests.extend({len(requests.slots) - 1: draw.randint(1, 6 * page_size)}):
                requests.slots.pop()
                refusals += 1
        elif action == "extend" and requests.slots:
            chosen = draw.sample(range(len(requests.slots)), k=min(2, len(requests.slots)))
            refusals += not requests.extend({index: draw.randint(1, 3 * page_size) for index in chosen})
        elif action == "decode" and requests.slots:
            refusals += not requests.decode()
        elif requests.slots:
            requests.end(draw.randrange(len(requests.slots)))
        requests.check()
    assert refusals, "the pool must have run full for this to show anything"


def test_slots_without_pages_come_from_sglangs_own_allocator() -> None:
    allocator = build_allocator(8, page_size=1, dtype=torch.float32, device="cpu", kvcache=None, need_sort=False)
    assert type(allocator) is TokenToKVPoolAllocator
    assert allocator.alloc(9) is None
    assert sorted(allocator.alloc(8).tolist()) == list(range(1, 9))


@pytest.mark.parametrize("page_size", [1, 4])
def test_freed_slots_are_handed_out_in_a_row_again(page_size: int) -> None:
    allocator = build_allocator(
        64, page_size=page_size, dtype=torch.float32, device="cpu", kvcache=None, need_sort=False
    )
    parts = [allocator.alloc(16) for _ in range(4)]
    for part in (parts[2], parts[0], parts[3], parts[1]):
        allocator.free(part)
    assert allocator.alloc(64).diff().unique().tolist() == [1]


def test_the_pool_is_laid_out_as_sglangs() -> None:
    arguments = {"page_size": 4, "dtype": torch.bfloat16, "head_num": 2, "head_dim": 8, "layer_num": 3}
    pools = [
        pool_class(32, device="cpu", enable_memory_saver=False, start_layer=5, end_layer=7, **arguments)
        for pool_class in (CpuKVPool, MHATokenToKVPool)
    ]
    ours, stock = ([*pool.k_buffer, *pool.v_buffer] for pool in pools)
    assert [(b.shape, b.dtype) for b in ours] == [(b.shape, b.dtype) for b in stock]
    assert pools[0].get_key_buffer(6) is not None


def budget(profiled_bytes: int, **chosen: object) -> int:
    server_args = {"max_total_tokens": None, "mem_fraction_static": MEM_FRACTION_STATIC}
    server_args |= {"tp_size": 1, "pp_size": 1, "nnodes": 1}
    configurator = SimpleNamespace(server_args=SimpleNamespace(**{**server_args, **chosen}))
    return bound_kv_bytes(profiled_bytes, configurator, pre_model_load_memory=0.0)


def test_the_pool_is_bounded_where_the_user_set_no_bound() -> None:
    assert budget(64 << 30) == KV_BUDGET_BYTES
    assert budget(4 << 30) == 1 << 30
    assert budget(64 << 30, tp_size=2) == KV_BUDGET_BYTES // 2
    assert budget(64 << 30, tp_size=2, nnodes=2) == KV_BUDGET_BYTES, "another machine's memory is its own"


@pytest.mark.parametrize("chosen", [{"max_total_tokens": 10**6}, {"mem_fraction_static": 0.5}])
def test_the_users_own_bound_is_kept(chosen: dict[str, object]) -> None:
    assert budget(64 << 30, **chosen) == 64 << 30
