"""How KV memory is split between the bands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_speed.config import SpeedConfig
from sglang_speed.errors import ConfigError
from sglang_speed.kv_pool.capacity import cap_deep_tokens, deep_tokens_beside, split_kv_bytes

BYTES_PER_LAYER = 128


def configs() -> st.SearchStrategy[SpeedConfig]:
    return st.integers(2, 64).flatmap(
        lambda layers: st.integers(1, layers - 1).map(lambda shallow: SpeedConfig(layers, shallow))
    )


@given(config=configs(), budget=st.integers(10**8, 10**12), page_size=st.sampled_from([1, 16]))
def test_both_pools_fit_in_the_budget(config: SpeedConfig, budget: int, page_size: int) -> None:
    split = split_kv_bytes(config, budget, BYTES_PER_LAYER, page_size)
    used = split.prompt_tokens * config.prefill_layers + split.deep_tokens * config.num_deep_layers
    assert used * BYTES_PER_LAYER <= budget
    assert split.prompt_tokens % page_size == 0


@given(config=configs(), budget=st.integers(10**8, 10**12))
def test_at_least_94_percent_of_the_ideal_gain_is_left_for_prompts(config: SpeedConfig, budget: int) -> None:
    full_depth_tokens = budget / (config.num_layers * BYTES_PER_LAYER)
    gain = split_kv_bytes(config, budget, BYTES_PER_LAYER, page_size=1).prompt_tokens / full_depth_tokens
    assert gain >= 0.9399 * config.num_layers / config.prefill_layers


def test_a_three_quarter_model_holds_a_quarter_more_prompt_tokens() -> None:
    budget = 10**9
    split = split_kv_bytes(SpeedConfig(32, 24), budget, BYTES_PER_LAYER, page_size=16)
    assert split.prompt_tokens / (budget / (32 * BYTES_PER_LAYER)) == pytest.approx(1.2533, abs=1e-3)
    assert split.deep_tokens == pytest.approx(0.19 * split.prompt_tokens, rel=0.01)


def test_the_stock_model_has_no_deep_pool() -> None:
    split = split_kv_bytes(SpeedConfig(8, 8), 10**6, BYTES_PER_LAYER, page_size=1)
    assert (split.prompt_tokens, split.deep_tokens) == (10**6 // (8 * BYTES_PER_LAYER), 0)
    assert cap_deep_tokens(SpeedConfig(8, 8), 0, max_requests=1, context_len=10) == 0


def test_an_override_sets_the_deep_pool_and_leaves_the_rest_to_prompts() -> None:
    config, budget = SpeedConfig(8, 6), 10**6
    split = split_kv_bytes(config, budget, BYTES_PER_LAYER, page_size=1, override=500)
    assert split.deep_tokens == 500 == deep_tokens_beside(config, 123, override=500)
    assert split.prompt_tokens == (budget - 500 * 2 * BYTES_PER_LAYER) // (6 * BYTES_PER_LAYER)


def test_an_override_that_leaves_no_room_for_prompts_is_refused() -> None:
    with pytest.raises(ConfigError, match="SGLANG_SPEED_DEEP_TOKENS=9999"):
        split_kv_bytes(SpeedConfig(8, 6), 10**6, BYTES_PER_LAYER, page_size=1, override=9999)


def test_the_deep_pool_never_exceeds_what_running_requests_can_fill() -> None:
    assert cap_deep_tokens(SpeedConfig(8, 6), 10**6, max_requests=4, context_len=1000) == 4000


def test_a_deep_pool_too_small_for_one_request_is_refused() -> None:
    config = SpeedConfig(8, 6, anchor_tokens=1, tail_tokens=16)
    assert cap_deep_tokens(config, 18, max_requests=4, context_len=1000) == 18
    with pytest.raises(ConfigError, match="one request needs 18"):
        cap_deep_tokens(config, 17, max_requests=4, context_len=1000)
