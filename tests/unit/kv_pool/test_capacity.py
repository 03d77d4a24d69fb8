"""How KV memory is split between the bands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_speed.config import SpeedConfig
from sglang_speed.errors import ConfigError
from sglang_speed.kv_pool.capacity import (
    DeepTables,
    KVSplit,
    cap_deep_tokens,
    deep_bytes,
    deep_percent,
    deep_tokens_beside,
    split_kv_bytes,
)
from sglang_speed.policies import SpeedPolicy

BYTES_PER_LAYER = 128
NO_TABLES = DeepTables()


def configs() -> st.SearchStrategy[SpeedConfig]:
    """Of either policy."""
    pop = st.integers(2, 64).flatmap(
        lambda layers: st.integers(1, layers - 1).map(lambda cutoff: SpeedConfig(layers, cutoff, 0, 1, policy="pop"))
    )
    return pop | st.integers(2, 64).flatmap(
        lambda layers: st.lists(st.integers(1, layers - 1), min_size=1, max_size=3, unique=True).map(
            lambda cutoffs: SpeedConfig(layers, *sorted(cutoffs)[:1], further_cutoffs=tuple(sorted(cutoffs)[1:]))
        )
    )


def all_tables() -> st.SearchStrategy[DeepTables]:
    return st.builds(DeepTables, st.integers(0, 5000), st.integers(0, 512), st.integers(0, 200_000))


def used_bytes(config: SpeedConfig, split: KVSplit, tables: DeepTables) -> int:
    shallow_bytes = split.prompt_tokens * config.stored_layers * BYTES_PER_LAYER
    return shallow_bytes + deep_bytes(config, split.deep_tokens, BYTES_PER_LAYER, tables)


@given(
    config=configs(),
    budget=st.integers(10**9, 10**12),
    page_size=st.sampled_from([1, 16]),
    override=st.sampled_from([None, 1, 5000]),
    tables=all_tables(),
)
def test_all_pools_and_the_tables_fit_in_the_budget(
    config: SpeedConfig, budget: int, page_size: int, override: int | None, tables: DeepTables
) -> None:
    left = budget - deep_bytes(config, override or 0, BYTES_PER_LAYER, tables)
    for_prompts = left if override is not None else left * (100 - deep_percent(config)) // 100
    if for_prompts < page_size * config.stored_layers * BYTES_PER_LAYER:
        with pytest.raises(ConfigError, match="which leaves no prompt tokens"):
            split_kv_bytes(config, budget, BYTES_PER_LAYER, page_size, override, tables)
        return
    split = split_kv_bytes(config, budget, BYTES_PER_LAYER, page_size, override, tables)
    assert used_bytes(config, split, tables) <= budget
    assert split.prompt_tokens % page_size == 0


@given(config=configs(), prompt_tokens=st.integers(10**5, 10**8), tables=all_tables())
def test_the_deep_band_has_as_many_tokens_as_its_share_pays_for(
    config: SpeedConfig, prompt_tokens: int, tables: DeepTables
) -> None:
    share = prompt_tokens * config.stored_layers * BYTES_PER_LAYER * 6 // 94
    found = deep_tokens_beside(config, prompt_tokens, BYTES_PER_LAYER, None, tables)
    if config.fills_deep_layers:  # its table is not paid from the share
        share += deep_bytes(config, 0, BYTES_PER_LAYER, tables)
    assert deep_bytes(config, found, BYTES_PER_LAYER, tables) <= share
    assert deep_bytes(config, found + 1, BYTES_PER_LAYER, tables) > share


@pytest.mark.parametrize(
    ("kv_bytes", "num_requests", "prompt_tokens", "deep_tokens", "table_bytes"),
    [
        # H200, --mem-fraction-static 0.88: as many requests as SGLang takes, and fewer
        (108 * 10**9, 4030, 1_032_714, 1272, 2.05e9),
        (108 * 10**9, 512, 1_032_714, 1813, 0.27e9),
        # H100
        (54 * 10**9, 2048, 516_357, 753, 0.62e9),
    ],
)
def test_tables_for_a_context_of_128k_are_paid_by_the_deep_band(
    kv_bytes: int, num_requests: int, prompt_tokens: int, deep_tokens: int, table_bytes: float
) -> None:
    """Llama-3.1-8B in bfloat16: 4096 bytes of KV in a layer, and decode graphs for 256 requests."""
    config, tables = SpeedConfig(32, 24), DeepTables(num_requests + 1, 256, 131072 + 4)
    split = split_kv_bytes(config, kv_bytes, 4096, 1, None, tables)
    assert (split.prompt_tokens, split.deep_tokens // 100) == (prompt_tokens, deep_tokens)
    assert min(split.deep_tokens, tables.max_width) * tables.num_rows * 4 == pytest.approx(table_bytes, rel=0.02)
    assert 0.999 * kv_bytes < used_bytes_of_8b(split, tables) <= kv_bytes


def used_bytes_of_8b(split: KVSplit, tables: DeepTables) -> int:
    """As the tensors have them: two pools, an int32 table, and Triton's int64 indices for decode graphs."""
    width = min(split.deep_tokens, tables.max_width)
    pools = (split.prompt_tokens * 24 + split.deep_tokens * 8) * 4096
    return pools + width * (tables.num_rows * 4 + tables.num_graph_rows * 8)


@given(config=configs(), budget=st.integers(10**8, 10**12))
def test_at_least_94_percent_of_the_ideal_gain_is_left_for_prompts(config: SpeedConfig, budget: int) -> None:
    full_depth_tokens = budget / (config.num_layers * BYTES_PER_LAYER)
    gain = split_kv_bytes(config, budget, BYTES_PER_LAYER, page_size=1).prompt_tokens / full_depth_tokens
    assert gain >= 0.9399 * config.num_layers / config.stored_layers


def test_a_three_quarter_model_holds_a_quarter_more_prompt_tokens() -> None:
    budget = 10**9
    split = split_kv_bytes(SpeedConfig(32, 24), budget, BYTES_PER_LAYER, page_size=16)
    assert split.prompt_tokens / (budget / (32 * BYTES_PER_LAYER)) == pytest.approx(1.2533, abs=1e-3)
    assert split.deep_tokens == pytest.approx(0.19 * split.prompt_tokens, rel=0.01)


def test_the_stock_model_has_no_deep_pool() -> None:
    split = split_kv_bytes(SpeedConfig(8, 8), 10**6, BYTES_PER_LAYER, page_size=1)
    assert (split.prompt_tokens, split.deep_tokens) == (10**6 // (8 * BYTES_PER_LAYER), 0)


def test_an_override_sets_the_deep_pool_and_leaves_the_rest_to_prompts() -> None:
    config, budget = SpeedConfig(8, 6), 10**6
    split = split_kv_bytes(config, budget, BYTES_PER_LAYER, page_size=1, override=500)
    assert split.deep_tokens == 500 == deep_tokens_beside(config, 123, BYTES_PER_LAYER, 500, NO_TABLES)
    assert split.prompt_tokens == (budget - 500 * 2 * BYTES_PER_LAYER) // (6 * BYTES_PER_LAYER)


def test_an_override_that_leaves_no_room_for_prompts_is_refused() -> None:
    with pytest.raises(ConfigError, match="SGLANG_SPEED_DEEP_TOKENS=9999"):
        split_kv_bytes(SpeedConfig(8, 6), 10**6, BYTES_PER_LAYER, page_size=1, override=9999)


def test_the_deep_pool_never_exceeds_what_running_requests_can_fill() -> None:
    assert cap_deep_tokens(SpeedPolicy(SpeedConfig(8, 6)), 10**6, max_requests=4, context_len=1000) == 4000


def test_a_deep_pool_too_small_for_one_request_is_refused() -> None:
    policy = SpeedPolicy(SpeedConfig(8, 6, anchor_tokens=1, tail_tokens=16))
    assert cap_deep_tokens(policy, 18, max_requests=4, context_len=1000) == 18
    with pytest.raises(ConfigError, match="one request needs 18"):
        cap_deep_tokens(policy, 17, max_requests=4, context_len=1000)
