"""SGLang's GPU backends with an fp8 KV cache in both bands, on stand-ins and in Triton's interpreter.

What they round differs, and each has its reference. FlashInfer and Triton give the rows of an extend their keys and
values as they were computed and read only earlier ones from the pool, so that an answer depends on chunks and hits, as
it does in SGLang without bands; Triton rounds queries and softmax's numerators too where they meet the pool. FA3 reads
everything from the pool and rounds queries. What the kernels themselves compute is tested on a GPU.

Warm requests here have other endings than the cold ones: of two equal texts SGLang keeps the first one's KV, which was
computed in other chunks than the second's.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.catalogue import BACKENDS, STANDINS, Bands
from tests.inprocess.parity.expected import Ask, forget_anchors, prompt, tokens
from tests.inprocess.parity.flash_attention_standin import flash_attention_standin
from tests.inprocess.parity.flashinfer_standin import flashinfer_standin
from tests.inprocess.parity.recorded_graph import record_decode_graphs
from tests.inprocess.parity.rounded_reference import (
    DTYPES,
    HITS_OF_ONE_CHUNK,
    RoundedExpected,
    Rounding,
    workload_of_one_chunk,
)
from tests.inprocess.parity.triton_interpreter import triton_interpreted
from tests.scheduler_harness import SchedulerHarness, running_scheduler

BANDS = Bands(6, 1, 3)
CASES = [(name, kv_dtype) for name in STANDINS for kv_dtype in BACKENDS[name].fp8]


def rounding(backend: str, kv_dtype: str) -> Rounding:
    return Rounding(DTYPES[kv_dtype], **BACKENDS[backend].rounds)


def require_backends(engine: SchedulerHarness, kind: type) -> None:
    """Both bands have the backend and an fp8 pool."""
    banded = engine.scheduler.tp_worker.model_runner.attn_backend
    assert set(map(type, banded.backends)) == {kind}
    dtypes = {each.token_to_kv_pool.dtype for each in banded.backends}
    assert dtypes <= set(DTYPES.values()), dtypes


@pytest.mark.parametrize("graphs", [False, True], ids=["eager", "graphs"])
@pytest.mark.parametrize(("backend", "kv_dtype"), CASES)
def test_cold_and_warm_answers_are_the_rounded_references(
    tmp_path: Any, backend: str, kv_dtype: str, graphs: bool
) -> None:
    expected = RoundedExpected(tmp_path, BANDS, rounding(backend, kv_dtype))
    runs = BACKENDS[backend].without_gpu()
    with runs as kind, running_scheduler(expected.path, kv_cache_dtype=kv_dtype) as engine:
        require_backends(engine, kind)
        recorded = record_decode_graphs(engine.scheduler, [1, 3, 8]) if graphs else None
        expected.answered(engine, workload_of_one_chunk(ending=0))
        forget_anchors()
        warm = expected.answered(engine, workload_of_one_chunk(ending=10))
        of_an_anchor_alone, *others = [answer.cached_tokens for answer in warm]
        assert (of_an_anchor_alone, others) == (0, HITS_OF_ONE_CHUNK[1:])
        assert recorded is None or recorded.num_replays > 5


def test_flashinfer_reads_earlier_chunks_from_the_pool(tmp_path: Any) -> None:
    """A prompt of five chunks, then a hit within the fourth."""
    expected = RoundedExpected(tmp_path, BANDS, rounding("flashinfer", "fp8_e4m3"), chunk=16)
    with (
        flashinfer_standin(),
        running_scheduler(expected.path, kv_cache_dtype="fp8_e4m3", chunked_prefill_size=16) as engine,
    ):
        expected.answered(engine, [Ask(prompt(70), 7, scored_from=50)])
        (warm,) = expected.answered(engine, [Ask([*prompt(70)[:56], *tokens(9)], 7)])
        assert warm.cached_tokens == 56


@pytest.mark.parametrize("change", [{"page_size": 16, "chunked_prefill_size": 16}, {"retract_every": 3}], ids=str)
def test_fa3_is_the_same_in_chunks_in_pages_and_retracted(tmp_path: Any, change: dict[str, Any]) -> None:
    expected = RoundedExpected(tmp_path, Bands(4, 4, 16), rounding("fa3", "fp8_e4m3"))
    with (
        flash_attention_standin(),
        running_scheduler(expected.path, kv_cache_dtype="fp8_e4m3", **change) as engine,
    ):
        for _ in range(2):
            answers = expected.answered(engine, [*workload_of_one_chunk(ending=0), Ask(prompt(90), 8, when=3)])
        assert (sum(answer.num_retractions for answer in answers) > 0) == ("retract_every" in change)


@pytest.mark.parametrize("kv_dtype", BACKENDS["triton"].fp8)
def test_triton_answers_are_the_rounded_references(tmp_path: Any, kv_dtype: str) -> None:
    """A prompt of two chunks, then a hit. Few tokens: numerators are rounded block by block, and here is one block."""
    expected = RoundedExpected(tmp_path, Bands(2, 2, 2), rounding("triton", kv_dtype), chunk=16, num_layers=3)
    with (
        triton_interpreted() as kind,
        running_scheduler(expected.path, kv_cache_dtype=kv_dtype, chunked_prefill_size=16) as engine,
    ):
        require_backends(engine, kind)
        expected.answered(engine, [Ask(prompt(20), 3), Ask(prompt(7, seed=1), 3, scored_from=2)])
        forget_anchors()
        (warm,) = expected.answered(engine, [Ask([*prompt(20)[:17], *tokens(4)], 3, scored_from=17)])
        assert warm.cached_tokens == 17
