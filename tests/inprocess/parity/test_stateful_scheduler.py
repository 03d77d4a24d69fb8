"""No history of a scheduler, however crowded its pools, loses a slot, a row or a request, or changes a token.

`--hypothesis-seed` repeats a run; SGLANG_SPEED_TEST_STEPS sets how long the slow one is, counted in rules.
"""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.catalogue import SHORT_MESSAGES, Bands
from tests.host import IS_OLDEST
from tests.inprocess.parity.conftest import Checkpoints
from tests.inprocess.parity.scheduler_machine import Scene, SchedulerMachine, Stage

FASTKV = Bands(2, 1, 3, "fastkv", select_ratio=0.4, select_window=4)
FASTKV_TWICE = Bands((1, 3), 2, 2, "fastkv", select_ratio=(0.6, 0.3), select_window=3, select_kernel=3)
THINNED = Bands(2, 1, 3, "fastkv", select_ratio=0.6, select_window=3, kv_keep=0.4)
NONE, ONE, FOUR = Bands(3, 0, 2), Bands(3, 1, 3), Bands(2, 4, 2)
HOST_CACHE = {"enable_hierarchical_cache": True, "hicache_ratio": 2.0}
SCENES = {
    "defaults": Scene(ONE),
    "tight, no overlap": Scene(ONE, deep_tokens=16, max_total_tokens=64, disable_overlap_schedule=True),
    "four anchors": Scene(FOUR, max_total_tokens=80, chunked_prefill_size=8),
    "four anchors, no overlap": Scene(FOUR, deep_tokens=24, disable_overlap_schedule=True, chunked_prefill_size=8),
    "no anchors": Scene(NONE, deep_tokens=20, chunked_prefill_size=12, max_running_requests=6),
    "pages of 4": Scene(ONE, page_size=4, chunked_prefill_size=8, schedule_policy="lpm"),
    "pages of 16, no overlap": Scene(FOUR, page_size=16, max_total_tokens=128, disable_overlap_schedule=True),
    "no cache": Scene(ONE, disable_radix_cache=True, deep_tokens=24),
    "priorities": Scene(ONE, enable_priority_scheduling=True, max_running_requests=2),
    "priorities, no overlap": Scene(FOUR, 30, enable_priority_scheduling=True, disable_overlap_schedule=True),
    "pop": Scene(Bands(3, 0, 1, "pop"), deep_tokens=24),
    "pop, four anchors, pages of 4": Scene(Bands(2, 4, 2, "pop"), page_size=4, chunked_prefill_size=8),
    "fastkv": Scene(FASTKV, deep_tokens=40),
    "fastkv, two cutoffs, pages of 4": Scene(FASTKV_TWICE, deep_tokens=32, page_size=4, chunked_prefill_size=12),
    "thinned": Scene(THINNED, deep_tokens=40),
    "thinned, pages of 4": Scene(THINNED, deep_tokens=32, page_size=4, chunked_prefill_size=12),
    "thinned, priorities": Scene(THINNED, deep_tokens=40, enable_priority_scheduling=True, max_running_requests=2),
    "pop, priorities": Scene(Bands(3, 1, 2, "pop"), 30, enable_priority_scheduling=True, max_running_requests=2),
    "fastkv, priorities, no overlap": Scene(
        FASTKV, 30, enable_priority_scheduling=True, max_running_requests=2, disable_overlap_schedule=True
    ),
    "short messages": Scene(Bands(3, 1, 3, **SHORT_MESSAGES), deep_tokens=40, chunked_prefill_size=12),
    "pop, short messages": Scene(Bands(3, 0, 1, "pop", **SHORT_MESSAGES), deep_tokens=40),
    "host's memory": Scene(FOUR, deep_tokens=24, max_total_tokens=80, **HOST_CACHE),
    "host's memory, pop": Scene(Bands(2, 2, 2, "pop"), page_size=4, chunked_prefill_size=8, **HOST_CACHE),
    "host's memory, fastkv": Scene(FASTKV, deep_tokens=40, max_total_tokens=80, **HOST_CACHE),
    "host's memory, thinned": Scene(THINNED, 40, page_size=4, disable_overlap_schedule=True, **HOST_CACHE),
    "cautious": Scene(ONE, schedule_conservativeness=1.0, deep_tokens=40, max_total_tokens=128),
}
NUM_HISTORIES, NUM_STEPS = 3, 40
SLOW_HISTORIES, SLOW_LENGTH = 4, 100
SLOW_STEPS = int(os.environ.get("SGLANG_SPEED_TEST_STEPS", "20000"))

Record = Callable[[str, object], None]


if IS_OLDEST:
    SCENES = {name: scene for name, scene in SCENES.items() if not scene.enable_hierarchical_cache}


def play(stage: Stage, number: int, histories: int, steps: int) -> None:
    """So many histories of at most so many steps, from a seed."""

    def machine() -> SchedulerMachine:
        return SchedulerMachine(stage)

    run_state_machine_as_test(
        seed(number)(machine),
        settings=settings(
            max_examples=histories,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )


def rehearse(expected: Checkpoints, scene: Scene, record: Record, number: int, histories: int, steps: int) -> None:
    """Play histories in one scene, and leave what was seen of it in the test's report."""
    stage = Stage(expected(scene.bands), scene)
    try:
        play(stage, number, histories, steps)
    finally:
        stage.close()
        record("scheduler histories", dict(stage.seen))


@pytest.fixture
def chosen_seed(request: pytest.FixtureRequest) -> int | None:
    """What --hypothesis-seed says."""
    number = request.config.getoption("--hypothesis-seed")
    return None if number is None else int(number)


@pytest.mark.parametrize("name", SCENES)
def test_no_history_loses_anything_or_changes_a_token(
    small_checkpoints: Checkpoints, name: str, chosen_seed: int | None, record_property: Record
) -> None:
    number = zlib.crc32(name.encode()) if chosen_seed is None else chosen_seed
    rehearse(small_checkpoints, SCENES[name], record_property, number, NUM_HISTORIES, NUM_STEPS)


def any_scene(generator: random.Random) -> Scene:
    """Settings that need not go well together."""
    has_priorities = generator.random() < 0.3
    page_size = generator.choice([1, 1, 4, 16])
    host_cache = {} if IS_OLDEST or generator.random() < 0.6 else HOST_CACHE
    chunks = [size for size in (8, 12, 16, 32, -1) if size == -1 or size % page_size == 0]  # what SGLang asks for
    return Scene(
        generator.choice([NONE, ONE, FOUR, FASTKV, THINNED]),
        deep_tokens=generator.choice([12, 16, 24, 36, 60]),
        max_total_tokens=generator.choice([64, 80, 96, 128, 256]),
        page_size=page_size,
        chunked_prefill_size=generator.choice(chunks),
        disable_overlap_schedule=generator.random() < 0.5,
        disable_radix_cache=not host_cache and generator.random() < 0.3,
        schedule_conservativeness=generator.choice([0.01, 0.3, 1.0]),
        max_running_requests=generator.choice([1, 2, 3, 4, 6]),
        enable_priority_scheduling=has_priorities,
        schedule_policy="fcfs" if has_priorities else generator.choice(["fcfs", "lpm", "dfs-weight", "lof"]),
        **host_cache,
    )


@pytest.mark.slow
def test_no_long_history_loses_anything_or_changes_a_token(
    small_checkpoints: Checkpoints, chosen_seed: int | None, record_property: Record
) -> None:
    number = random.SystemRandom().randrange(2**32) if chosen_seed is None else chosen_seed
    print(f"--hypothesis-seed={number}")
    record_property("seed", number)
    generator = random.Random(number)
    for index in range(-(-SLOW_STEPS // (SLOW_HISTORIES * SLOW_LENGTH))):
        scene = any_scene(generator)
        print(scene)
        rehearse(small_checkpoints, scene, record_property, number + index, SLOW_HISTORIES, SLOW_LENGTH)
