"""With an fp8 KV cache in both bands the answers are those of the reference whose keys and values are rounded.

On the CPU platform: its attention reads all keys and values from the pool, also those of the rows that it runs on, so
neither chunks nor prefix hits change an answer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch

from sglang_speed.served import served
from sglang_speed.serving.metrics import speed_state
from tests.catalogue import FP8_SETTINGS, NUM_LAYERS, SHAPE, Bands
from tests.inprocess.parity.expected import Ask, prompt, tokens
from tests.inprocess.parity.rounded_reference import DTYPES, RoundedExpected, Rounding
from tests.scheduler_harness import running_scheduler

RoundedCheckpoints = Callable[[str, Bands], RoundedExpected]

THREE_QUARTERS, FOUR_ANCHORS = Bands(6, 1, 3), Bands(4, 4, 16)
CASES = [(name, "fp8_e4m3", THREE_QUARTERS) for name in FP8_SETTINGS] + [
    ("pages, chunks of 16", "fp8_e5m2", FOUR_ANCHORS),
    ("retracted", "fp8_e5m2", FOUR_ANCHORS),
]


@pytest.fixture(scope="module")
def rounded(tmp_path_factory: pytest.TempPathFactory) -> RoundedCheckpoints:
    """rounded(kv_dtype, bands): the checkpoint with its rounded reference, made once."""

    @cache
    def make(kv_dtype: str, bands: Bands) -> RoundedExpected:
        return RoundedExpected(tmp_path_factory.mktemp("rounded"), bands, Rounding(DTYPES[kv_dtype]))

    return make


def workload() -> list[Ask]:
    """Short and long prompts at once, shared prefixes, scored spans, some that come later.

    Prefixes are several because a flip in one is in the answers of all who share it.
    """
    asks = [Ask(prompt(length, seed=length), 6) for length in (1, 4, 17, 70)]
    for shared in (prompt(40, seed=seed) for seed in range(5)):
        asks += [Ask([*shared, *tokens(5, seed=seed)], 6, scored_from=len(shared) - 3 * seed) for seed in range(2)]
    return [*asks, Ask(prompt(90), 8, when=3), Ask(prompt(40)[:30], 12, when=5)]


@pytest.mark.parametrize(("name", "kv_dtype", "bands"), CASES, ids=str)
def test_cold_warm_chunked_and_retracted_answers_are_the_rounded_references(
    rounded: RoundedCheckpoints, name: str, kv_dtype: str, bands: Bands
) -> None:
    expected = rounded(kv_dtype, bands)
    with running_scheduler(expected.path, kv_cache_dtype=kv_dtype, **FP8_SETTINGS[name]) as engine:
        cold = expected.answered(engine, workload())
        warm = expected.answered(engine, workload())
    if name == "retracted":
        assert sum(answer.num_retractions for answer in cold) >= 2
    assert (max(answer.cached_tokens for answer in warm) >= 64) == (name != "no cache")


@pytest.mark.parametrize("layers", [range(6), range(6, NUM_LAYERS)], ids=["deep", "shallow"])
def test_a_band_that_is_not_rounded_is_noticed(
    rounded: RoundedCheckpoints, tmp_path_factory: pytest.TempPathFactory, layers: range
) -> None:
    """The check of this file's comparison: a reference that rounds the other band only."""
    wrong = RoundedExpected(tmp_path_factory.mktemp("wrong"), THREE_QUARTERS, Rounding(DTYPES["fp8_e4m3"]))
    wrong.round_only(layers)
    with (
        running_scheduler(wrong.path, kv_cache_dtype="fp8_e4m3") as engine,
        pytest.raises(AssertionError, match=r"margin|differ by|only 0%"),
    ):
        wrong.answered(engine, workload())


def test_both_bands_hold_a_byte_for_each_number(rounded: RoundedCheckpoints) -> None:
    """And /server_info says so."""
    numbers = 2 * SHAPE["num_kv_heads"] * SHAPE["head_dim"]
    with running_scheduler(rounded("fp8_e5m2", FOUR_ANCHORS).path, kv_cache_dtype="fp8_e5m2", deep_tokens=64):
        model = served()
        assert model is not None
        assert model.request_pool is not None
        shallow, deep = model.kv_pool, model.deep_bands[0].allocator.get_kvcache()
        assert shallow.get_key_buffer(0).dtype == deep.get_value_buffer(NUM_LAYERS - 1).dtype == torch.float8_e5m2
        assert {each.dtype for each in (*shallow.k_buffer, *deep.v_buffer)} == {torch.uint8}
        state = speed_state(model)
        assert state["kv_bytes_per_prompt_token"] == 4 * numbers
        assert state["kv_bytes_total"] == 4 * numbers * (8192 + 1 + 64 + 1), "and a padding slot in each band"
