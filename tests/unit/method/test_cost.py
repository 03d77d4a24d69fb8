"""Costs agree with sums over tokens and layers, and ceilings with the design's figures."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_speed.config import SpeedConfig
from sglang_speed.method import ModelShape
from sglang_speed.method.cost import (
    Experts,
    Extend,
    Latent,
    Window,
    decode_bytes,
    decode_ceiling,
    extend_of,
    kept_layers,
    kv_bytes_per_generated_token,
    kv_bytes_per_prompt_token,
    prefill_ceiling,
    prefill_flops,
    request_kv_bytes,
)

LLAMA_8B = ModelShape(
    hidden_size=4096, intermediate_size=14336, num_heads=32, num_kv_heads=8, head_dim=128, vocab_size=128256
)
TINY = ModelShape(hidden_size=64, intermediate_size=128, num_heads=4, num_kv_heads=2, head_dim=16, vocab_size=258)
WITH_EXPERTS = replace(TINY, experts=Experts(count=8, per_token=2, intermediate_size=32, shared_size=16))
WITH_LATENT = replace(TINY, latent=Latent(kv_rank=16, rope_dim=8, query_rank=0, nope_dim=16, value_dim=16))
WITH_WINDOWS = replace(TINY, window=Window(size=9, share=0.5))
QWEN3_30B_A3B = ModelShape(2048, 6144, 32, 4, 128, 151936, experts=Experts(128, 8, 768))
DEEPSEEK_V3 = ModelShape(
    7168, 18432, 128, 128, 56, 129280, experts=Experts(256, 8, 2048, 2048), latent=Latent(512, 64, 1536, 128, 128)
)
THREE_QUARTERS = SpeedConfig(num_layers=32, prefill_layers=24)
FASTKV_AT_HALF = SpeedConfig.of_policy(32, 16, "fastkv")

configs = st.integers(1, 12).flatmap(
    lambda num_layers: st.builds(SpeedConfig, st.just(num_layers), st.integers(1, num_layers))
)
lengths = st.integers(0, 50)
shapes = st.sampled_from([TINY, WITH_EXPERTS, WITH_LATENT, WITH_WINDOWS])


def test_a_layer_of_llama_8b_keeps_4_kib_per_token() -> None:
    assert LLAMA_8B.kv_bytes_per_layer == 4096


def test_llama_8b_has_7_billion_weights_in_its_layers() -> None:
    assert 32 * LLAMA_8B.weights_per_layer == pytest.approx(6.98e9, rel=1e-3)


def test_qwen3_30b_a3b_has_30_billion_weights_and_runs_3_billion() -> None:
    embedding_and_head = 2 * QWEN3_30B_A3B.vocab_size * QWEN3_30B_A3B.hidden_size
    assert 48 * QWEN3_30B_A3B.stored_weights_per_layer + embedding_and_head == pytest.approx(30.5e9, rel=1e-2)
    assert 48 * QWEN3_30B_A3B.weights_per_layer + embedding_and_head == pytest.approx(3.3e9, rel=2e-2)


def test_deepseek_v3_keeps_its_latent_and_runs_37_billion_weights() -> None:
    assert DEEPSEEK_V3.kv_bytes_per_layer == 1152
    head = DEEPSEEK_V3.vocab_size * DEEPSEEK_V3.hidden_size
    assert 61 * DEEPSEEK_V3.weights_per_layer + head == pytest.approx(37e9, rel=2e-2)


def test_a_large_batch_reads_all_experts_and_a_single_token_its_own() -> None:
    assert WITH_EXPERTS.weights_read_per_layer(1) == WITH_EXPERTS.weights_per_layer
    assert WITH_EXPERTS.weights_read_per_layer(500) == WITH_EXPERTS.stored_weights_per_layer


def test_a_step_reads_no_more_than_the_window() -> None:
    short, long = (decode_bytes(WITH_WINDOWS, THREE_QUARTERS, context_len, 1) for context_len in (9, 1009))
    assert long - short == 1000 * kv_bytes_per_prompt_token(TINY, THREE_QUARTERS) / 2


def test_a_cutoff_at_three_quarters_keeps_exactly_three_quarters_of_the_prompt_kv() -> None:
    full = kv_bytes_per_generated_token(LLAMA_8B, THREE_QUARTERS)
    assert 4 * kv_bytes_per_prompt_token(LLAMA_8B, THREE_QUARTERS) == 3 * full


@given(configs, lengths, lengths)
def test_a_request_keeps_shallow_only_tokens_and_deep_tokens(
    config: SpeedConfig, num_shallow_only: int, num_deep: int
) -> None:
    prompt_bytes = num_shallow_only * kv_bytes_per_prompt_token(TINY, config)
    deep_bytes = num_deep * kv_bytes_per_generated_token(TINY, config)
    total = request_kv_bytes(TINY, config, num_shallow_only + num_deep, num_deep)
    assert total == prompt_bytes + deep_bytes


@given(shapes, configs, lengths, lengths, st.data())
def test_prefill_operations_are_the_sum_over_tokens_and_layers(
    shape: ModelShape, config: SpeedConfig, num_tokens: int, prefix_len: int, data: st.DataObject
) -> None:
    num_deep = data.draw(st.integers(0, num_tokens))
    first, end = prefix_len + 1, prefix_len + num_tokens + 1
    shallow = config.prefill_layers * sum(shape.layer_flops(length) for length in range(first, end))
    deep = config.num_deep_layers * sum(shape.layer_flops(length) for length in range(1, num_deep + 1))
    assert prefill_flops(shape, config, num_tokens, num_deep, prefix_len) == shallow + deep


@given(shapes, st.integers(1, 11), lengths, lengths, st.data())
def test_filled_keys_and_values_are_paid_for_every_token_and_seen_by_deep_rows(
    shape: ModelShape, prefill_layers: int, num_tokens: int, prefix_len: int, data: st.DataObject
) -> None:
    config = SpeedConfig(12, prefill_layers, 0, 1, policy="pop")
    num_deep = data.draw(st.integers(0, num_tokens))
    positions = range(prefix_len + 1, prefix_len + num_tokens + 1)
    shallow = prefill_layers * sum(shape.layer_flops(length) for length in positions)
    deep = sum(shape.layer_flops(length) for length in positions[num_tokens - num_deep :])
    filled = 2 * shape.filled_weights * num_tokens
    expected = shallow + config.num_deep_layers * (deep + filled)
    assert prefill_flops(shape, config, num_tokens, num_deep, prefix_len) == expected


def test_filling_in_costs_four_hundredths_of_a_layer_of_llama_8b() -> None:
    assert LLAMA_8B.filled_weights / LLAMA_8B.weights_per_layer == pytest.approx(0.04, abs=0.002)


def test_a_prompt_token_of_pop_takes_the_kv_of_all_layers() -> None:
    pop = replace(THREE_QUARTERS, policy="pop")
    assert kv_bytes_per_prompt_token(LLAMA_8B, pop) == 32 * LLAMA_8B.kv_bytes_per_layer
    assert kv_bytes_per_generated_token(LLAMA_8B, pop) == (32 + 8) * LLAMA_8B.kv_bytes_per_layer


def test_a_token_of_fastkv_keeps_its_state() -> None:
    assert kept_layers(LLAMA_8B, FASTKV_AT_HALF) == 16 + 2
    assert kept_layers(DEEPSEEK_V3, FASTKV_AT_HALF) == 16 + 13
    layers = kv_bytes_per_generated_token(LLAMA_8B, FASTKV_AT_HALF) / LLAMA_8B.kv_bytes_per_layer
    assert layers == 16 + 2 + 16


def test_fastkv_gains_what_was_published() -> None:
    """Prefill and tokens at rest of a model at half depth, with a fifth of the tokens above."""
    assert prefill_ceiling(LLAMA_8B, FASTKV_AT_HALF) == pytest.approx(1.67, abs=0.005)
    assert 32 / kept_layers(LLAMA_8B, FASTKV_AT_HALF) == pytest.approx(1.78, abs=0.005)


def test_selected_tokens_are_read_in_decode_and_computed_behind_a_hit() -> None:
    none, some = (decode_bytes(LLAMA_8B, FASTKV_AT_HALF, length, 1) for length in (0, 1000))
    assert some - none == 1000 * (16 + 0.2 * 16) * LLAMA_8B.kv_bytes_per_layer
    assert extend_of(FASTKV_AT_HALF, 8192) == Extend(new=8192, deep=1638)
    assert extend_of(FASTKV_AT_HALF, 8192, cached_len=8192) == Extend(new=8, deep=1638, prefix=8184)


def test_a_thinned_context_is_read_in_all_layers_as_far_as_it_is_kept() -> None:
    thinned = SpeedConfig.of_policy(32, 16, "fastkv", kv_keep=0.1)
    none, some = (decode_bytes(LLAMA_8B, thinned, length, 1) for length in (0, 1000))
    assert some - none == 100 * 32 * LLAMA_8B.kv_bytes_per_layer
    layers = kv_bytes_per_generated_token(LLAMA_8B, thinned) / LLAMA_8B.kv_bytes_per_layer
    assert layers == 16 + 2 + 32


def test_a_prefill_in_two_parts_costs_what_it_costs_in_one() -> None:
    stock = SpeedConfig(num_layers=32, prefill_layers=32)
    whole = prefill_flops(LLAMA_8B, stock, 1000, 1000)
    assert whole == prefill_flops(LLAMA_8B, stock, 600, 600) + prefill_flops(LLAMA_8B, stock, 400, 400, 600)


@given(configs, st.integers(1, 50), st.data())
def test_prefill_never_beats_its_ceiling_and_reaches_it_without_deep_tokens(
    config: SpeedConfig, num_tokens: int, data: st.DataObject
) -> None:
    num_deep = data.draw(st.integers(0, num_tokens))
    full_depth = prefill_flops(TINY, config, num_tokens, num_tokens)
    speedup = full_depth / prefill_flops(TINY, config, num_tokens, num_deep)
    assert speedup <= prefill_ceiling(TINY, config) * (1 + 1e-12)
    assert full_depth / prefill_flops(TINY, config, num_tokens, 0) == pytest.approx(prefill_ceiling(TINY, config))


@pytest.mark.parametrize(("batch_size", "ceiling"), [(1, 1.15), (4, 1.26), (1000, 1.33)])
def test_decode_ceilings_of_llama_8b_at_128k_are_the_published_ones(batch_size: int, ceiling: float) -> None:
    assert decode_ceiling(LLAMA_8B, THREE_QUARTERS, 131072, batch_size) == pytest.approx(ceiling, abs=0.006)


@given(configs, st.integers(0, 10**6), st.integers(1, 1000))
def test_decode_gains_less_than_the_layer_ratio(config: SpeedConfig, context_len: int, batch_size: int) -> None:
    assert 1 <= decode_ceiling(LLAMA_8B, config, context_len, batch_size) <= prefill_ceiling(LLAMA_8B, config)


def test_the_stock_model_gains_nothing() -> None:
    stock = SpeedConfig(num_layers=32, prefill_layers=32)
    assert prefill_ceiling(LLAMA_8B, stock) == 1
    assert decode_ceiling(LLAMA_8B, stock, context_len=131072, batch_size=8) == 1
