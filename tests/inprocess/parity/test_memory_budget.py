"""What the bands take of the memory that SGLang found for KV: all of it, and no more."""

from __future__ import annotations

import pytest

from sglang_speed.platforms.cpu import hooks as cpu_hooks
from sglang_speed.served import active_pool
from tests.inprocess.parity.expected import Ask, Expected, prompt
from tests.scheduler_harness import running_scheduler

BUDGET = 64 << 20
NUM_REQUESTS = 256
LAYER_BYTES = 2 * 2 * 8 * 4
"""Keys and values, two KV heads of eight float32 numbers."""


@pytest.mark.parametrize("deep_tokens", [None, 3000])
def test_pools_and_the_deep_table_take_what_there_is(
    expected: Expected, deep_tokens: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table, as wide as the context, is half as large as the deep pool."""
    monkeypatch.setattr(cpu_hooks, "KV_BUDGET_BYTES", BUDGET)
    settings = {"max_total_tokens": None, "max_running_requests": NUM_REQUESTS}
    with running_scheduler(expected.path, deep_tokens=deep_tokens, **settings) as engine:
        deep = active_pool().deep_bands[0]
        shallow_bytes = engine.scheduler.max_total_num_tokens * 6 * LAYER_BYTES
        used = shallow_bytes + deep.capacity * 2 * LAYER_BYTES + deep.table.nbytes
        assert 0.999 * BUDGET < used <= BUDGET
        assert deep.table.shape == (NUM_REQUESTS + 1, engine.scheduler.req_to_token_pool.max_context_len)
        assert deep.capacity == (deep_tokens or deep.capacity)
        assert deep_tokens or shallow_bytes == pytest.approx(0.94 * BUDGET, rel=1e-4)
        expected.answered(engine, [Ask(prompt(40), 4)])
