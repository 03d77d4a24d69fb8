"""SGLang's FlashInfer and FA3 backends in both bands, on stand-ins for their libraries.

The answers are the reference's, eagerly and with decode graphs that are recorded and replayed. The kernels themselves
are tested on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sglang.srt.model_executor.forward_batch_info import ForwardMode

from tests import host
from tests.catalogue import (
    BACKENDS,
    FASTKV,
    POP_WITH_ANCHORS,
    POP_WITH_MESSAGES,
    RETRACTED,
    SOME_SETTINGS,
    STANDINS,
    THINNED,
    Bands,
)
from tests.inprocess.parity.conftest import Checkpoints
from tests.inprocess.parity.expected import Ask, Expected, forget_anchors, prompt, tokens
from tests.inprocess.parity.flashinfer_standin import PagedDecode, flashinfer_standin
from tests.inprocess.parity.recorded_graph import record_decode_graphs
from tests.scheduler_harness import SchedulerHarness, running_scheduler

BANDS = [Bands(6, 1, 3), Bands(4, 4, 16), Bands(6, 0, 1), POP_WITH_ANCHORS, FASTKV, THINNED]
SETTINGS = {**SOME_SETTINGS, "retracted": RETRACTED}


@pytest.fixture(params=STANDINS)
def backend(request: pytest.FixtureRequest) -> Iterator[type]:
    """The class that both bands should have."""
    with BACKENDS[request.param].without_gpu() as kind:
        yield kind


@pytest.fixture
def flashinfer() -> Iterator[type]:
    with flashinfer_standin() as kind:
        yield kind


def workload() -> list[Ask]:
    """Cold and warm prompts, scored spans, a prompt of many chunks whose middle ones have no deep rows."""
    shared = prompt(24)
    asks = [Ask(prompt(8 + 5 * seed, seed=seed), 9 + seed) for seed in range(4)]
    asks += [Ask(shared + tokens(4, seed=seed), 6, scored_from=len(shared) - seed) for seed in range(2)]
    asks += [Ask(prompt(90), 5, when=2), Ask(prompt(90) + tokens(7), 5, when=9)]
    return [*asks, Ask(prompt(30, first=70), 4, scored_from=3, when=4)]


def answered_twice(expected: Expected, engine: SchedulerHarness) -> None:
    expected.answered(engine, workload())
    forget_anchors()
    warm = expected.answered(engine, workload())
    if not engine.scheduler.server_args.disable_radix_cache:
        assert max(answer.cached_tokens for answer in warm) >= 64


def backends(engine: SchedulerHarness) -> tuple[Any, Any]:
    """The shallow band's backend and the deep band's."""
    banded = engine.scheduler.tp_worker.model_runner.attn_backend
    return tuple(banded.backends)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("bands", [*BANDS[:2], POP_WITH_ANCHORS, POP_WITH_MESSAGES, FASTKV, THINNED], ids=str)
def test_answers_are_the_references(backend: type, checkpoints: Checkpoints, name: str, bands: Bands) -> None:
    expected = checkpoints(bands)
    with running_scheduler(expected.path, **SETTINGS[name]) as engine:
        assert {type(each) for each in backends(engine)} == {backend}
        answered_twice(expected, engine)


@pytest.mark.parametrize("name", SETTINGS)
def test_answers_of_decode_graphs_are_the_references(backend: type, checkpoints: Checkpoints, name: str) -> None:
    """Batches of one to eight requests, padded to those of the graphs."""
    expected = checkpoints(BANDS[0])
    with running_scheduler(expected.path, **SETTINGS[name]) as engine:
        graphs = record_decode_graphs(engine.scheduler, [1, 3, 8])
        answered_twice(expected, engine)
        assert graphs.num_replays > 10


@pytest.mark.parametrize("bands", BANDS[1:], ids=str)
def test_decode_graphs_of_other_bands_are_exact(backend: type, checkpoints: Checkpoints, bands: Bands) -> None:
    expected = checkpoints(bands)
    with running_scheduler(expected.path, chunked_prefill_size=32) as engine:
        record_decode_graphs(engine.scheduler, [2, 6])
        answered_twice(expected, engine)


@pytest.mark.parametrize("bands", [POP_WITH_ANCHORS, POP_WITH_MESSAGES], ids=str)
def test_more_sequences_than_requests_are_exact(backend: type, checkpoints: Checkpoints, bands: Bands) -> None:
    """Rows of a request with filled ones between them are sequences of their own; backends have a place for so many
    as there are requests."""
    expected = checkpoints(bands)
    asks = [Ask(prompt(120, seed=seed), 4) for seed in range(2)]
    with running_scheduler(expected.path, max_running_requests=2) as engine:
        expected.answered(engine, asks)
    runs = [len(expected.model.deep_tokens(ask.prompt)[0].runs) for ask in asks]
    assert sum(runs) + len(asks) > 2


@pytest.mark.skipif(host.IS_OLDEST, reason="SGLang does not ask there")
def test_tables_are_read_to_the_end_of_an_extend_that_begins_with_states(
    backend: type, checkpoints: Checkpoints
) -> None:
    """The scheduler changes them as soon as it may."""
    ends = []
    for bands in (BANDS[0], FASTKV):
        with running_scheduler(checkpoints(bands).path) as engine:
            banded = engine.scheduler.tp_worker.model_runner.attn_backend
            ends.append([banded.shared_read_ends(mode).name for mode in (ForwardMode.DECODE, ForwardMode.EXTEND)])
    assert ends[0][0] == ends[1][0]
    assert ends[1][1] == "UNKNOWN"


@pytest.mark.usefixtures("flashinfer")
def test_each_band_is_planned_once_for_a_batch(expected: Expected) -> None:
    """And runs once for each of its layers."""
    with running_scheduler(expected.path, disable_overlap_schedule=True) as engine:
        wrappers: list[PagedDecode] = [each.decode_wrappers[0] for each in backends(engine)]
        expected.answered(engine, [Ask(prompt(20), 8)])
        assert [wrapper.num_plans for wrapper in wrappers] == [7, 7], "the first token comes from the prefill"


@pytest.mark.usefixtures("flashinfer")
def test_a_graph_reads_the_deep_band_at_fixed_addresses(expected: Expected) -> None:
    with running_scheduler(expected.path) as engine:
        record_decode_graphs(engine.scheduler, [4])
        wrapper = backends(engine)[1].decode_cuda_graph_metadata[4][0]
        buffers = [wrapper._paged_kv_indptr_buf.data_ptr(), wrapper._paged_kv_indices_buf.data_ptr()]
        for length in (10, 40):
            expected.answered(engine, [Ask(prompt(length), 6)])
        assert buffers == [wrapper._paged_kv_indptr_buf.data_ptr(), wrapper._paged_kv_indices_buf.data_ptr()]


def test_the_deep_band_takes_no_room_for_more_than_its_table_is_wide(backend: type, expected: Expected) -> None:
    with running_scheduler(expected.path, deep_tokens=64) as engine:
        shallow, deep = backends(engine)
        assert (shallow.max_context_len, deep.max_context_len) == (2048, 64)
