"""A request that was stopped and started again gives the same tokens and log-probabilities, and is not cut short."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from sglang.srt.managers.io_struct import ContinueGenerationReqInput, FlushCacheReqInput, PauseGenerationReqInput

from tests.catalogue import FASTKV, POP, SOME_SETTINGS, THINNED_TWICE, WITH_MESSAGES, Bands
from tests.inprocess.parity.conftest import Checkpoints
from tests.inprocess.parity.expected import Ask, Expected, prompt, tokens
from tests.scheduler_harness import running_scheduler

OPTIMISTIC = {"schedule_conservativeness": 0.01}
"""SGLang then starts requests as if each ended soon, and retracts some when they do not."""

BANDS = [Bands(6, 1, 3), Bands(4, 4, 16), POP, FASTKV, THINNED_TWICE, WITH_MESSAGES]


def workload() -> list[Ask]:
    """Requests with and without a scored span, some with a shared prefix, one after the others."""
    shared = prompt(24)
    asks = [Ask(prompt(8 + 5 * seed, seed=seed), 14 + seed) for seed in range(4)]
    asks += [Ask(prompt(8 + 5 * seed, seed=seed), 12, scored_from=4 * seed) for seed in range(1, 4)]
    asks += [Ask(shared + tokens(4, seed=seed), 10, scored_from=len(shared) - seed) for seed in range(2)]
    return [*asks, Ask(prompt(70), 9, when=5), Ask(prompt(30), 9, scored_from=30, when=7)]


@pytest.mark.parametrize("bands", BANDS, ids=str)
@pytest.mark.parametrize("name", SOME_SETTINGS)
def test_requests_retracted_at_regular_steps_are_resumed_exactly(
    checkpoints: Checkpoints, name: str, bands: Bands
) -> None:
    expected = checkpoints(bands)
    with running_scheduler(expected.path, retract_every=3, **SOME_SETTINGS[name]) as engine:
        answers = expected.answered(engine, workload())
    assert sum(answer.num_retractions for answer in answers) >= 3


def growing() -> list[Ask]:
    """Short prompts, one after the other, whose answers are what fills a pool."""
    return [
        Ask(prompt(6 + seed, seed=seed), 24, scored_from=seed if seed % 3 == 0 else None, when=2 * seed)
        for seed in range(9)
    ]


@pytest.mark.parametrize("pools", [{"max_total_tokens": 128, "deep_tokens": 400}, {"deep_tokens": 80}], ids=str)
@pytest.mark.parametrize("name", SOME_SETTINGS)
def test_a_full_pool_of_either_band_retracts_exactly(expected: Expected, name: str, pools: Mapping[str, int]) -> None:
    with running_scheduler(expected.path, **pools, **OPTIMISTIC, **SOME_SETTINGS[name]) as engine:
        answers = expected.answered(engine, growing())
    assert any(answer.num_retractions for answer in answers)


@pytest.mark.parametrize("deep_tokens", [24, None], ids=["tight", "ample"])
@pytest.mark.parametrize("overlap", [True, False], ids=["overlap", "no overlap"])
def test_a_preempted_request_is_resumed_exactly(expected: Expected, overlap: bool, deep_tokens: int | None) -> None:
    """In a tight deep band too: room is counted for the whole request, not anew for what is left of it."""
    settings: Mapping[str, Any] = {"enable_priority_scheduling": True, "disable_overlap_schedule": not overlap}
    urgent = {"priority": 100}
    with running_scheduler(expected.path, deep_tokens=deep_tokens, max_running_requests=1, **settings) as engine:
        asks = [Ask(prompt(40), 20, fields={"priority": 0})]
        asks += [Ask(prompt(30, seed=step), 4, when=step, fields=urgent) for step in (4, 12, 24)]
        answers = expected.answered(engine, asks)
    assert answers[0].num_retractions >= 2


@pytest.mark.parametrize("overlap", [True, False], ids=["overlap", "no overlap"])
@pytest.mark.parametrize(("wanted", "num_preempted"), [(8, 1), (26, 2), (38, 3)])
def test_as_many_are_preempted_as_the_deep_band_needs(
    expected: Expected, wanted: int, num_preempted: int, overlap: bool
) -> None:
    """Three requests of 3 + 12 deep tokens and their anchor fill a band of 46; the urgent one wants 3 + `wanted`."""
    settings: Mapping[str, Any] = {"enable_priority_scheduling": True, "disable_overlap_schedule": not overlap}
    with running_scheduler(expected.path, deep_tokens=46, max_running_requests=3, **settings) as engine:
        asks = [Ask(prompt(30, seed=seed), 12, fields={"priority": 0}) for seed in range(3)]
        asks += [Ask(prompt(20), wanted, when=5, fields={"priority": 100})]
        answers = expected.answered(engine, asks)
    assert [answer.num_retractions > 0 for answer in answers].count(True) == num_preempted


@pytest.mark.parametrize("threshold", [50, 150])
def test_nobody_is_preempted_in_vain(expected: Expected, threshold: int) -> None:
    """Where the urgent request would not fit even so, or is not urgent enough, it waits."""
    settings = {"enable_priority_scheduling": True, "priority_scheduling_preemption_threshold": threshold}
    with running_scheduler(expected.path, deep_tokens=46, max_running_requests=2, **settings) as engine:
        asks = [Ask(prompt(30, seed=seed), 18, fields={"priority": priority}) for seed, priority in [(0, 0), (1, 90)]]
        asks += [Ask(prompt(20), 38, when=5, fields={"priority": 100})]
        answers = expected.answered(engine, asks)
    assert not any(answer.num_retractions for answer in answers)


@pytest.mark.parametrize("flush", [False, True], ids=["kept", "flushed"])
@pytest.mark.parametrize("step", [1, 2, 3, 8, 17])
def test_a_pause_that_takes_requests_back_is_exact(expected: Expected, step: int, flush: bool) -> None:
    """While prefilling in chunks and while decoding; the cache may be flushed in between."""
    with running_scheduler(expected.path, deep_tokens=40, chunked_prefill_size=16) as engine:
        engine.send(PauseGenerationReqInput(mode="retract"), when=step)
        if flush:
            engine.send(FlushCacheReqInput(), when=step + 1)
        engine.send(ContinueGenerationReqInput(torch_empty_cache=False), when=step + 2)
        asks = [Ask(prompt(40), 20, scored_from=38), Ask(prompt(70), 11)]
        expected.answered(engine, asks)


@pytest.mark.parametrize("step", [1, 3, 9])
def test_a_pause_in_place_is_exact(expected: Expected, step: int) -> None:
    with running_scheduler(expected.path, chunked_prefill_size=16) as engine:
        engine.send(PauseGenerationReqInput(mode="in_place"), when=step)
        engine.send(ContinueGenerationReqInput(torch_empty_cache=False), when=step + 3)
        expected.answered(engine, [Ask(prompt(40), 20), Ask(prompt(70), 11)])
