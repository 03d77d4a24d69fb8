"""Running requests decode beside the chunks of a prompt, in one forward: where their step fits in every deep band they
have their deep slots in it, where it does not they sit it out, and no token changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest

from tests import host
from tests.catalogue import SHORT_MESSAGES, Bands
from tests.inprocess.parity.conftest import Checkpoints
from tests.inprocess.parity.expected import Ask, prompt
from tests.scheduler_harness import SchedulerHarness, running_scheduler

pytestmark = pytest.mark.skipif(host.IS_OLDEST, reason="refused there: it does not ask whether a mixed step fits")

MIXED = {"enable_mixed_chunk": True, "chunked_prefill_size": 16, "schedule_conservativeness": 0.01}
LOOPS = pytest.mark.parametrize("loop", [{}, {"disable_overlap_schedule": True}], ids=["overlap", "no overlap"])
SPEED, POP = Bands(3, 1, 3), Bands(3, 1, 2, "pop")
FASTKV = Bands(2, 1, 3, "fastkv", select_ratio=0.4, select_window=4)
THINNED = Bands(2, 1, 3, "fastkv", select_ratio=0.4, select_window=4, kv_keep=0.4)
MESSAGES = Bands(3, 1, 3, **SHORT_MESSAGES)
TIGHT = {SPEED: 48, POP: 46, FASTKV: 104, THINNED: 104, MESSAGES: 66}
"""Deep slots that a long prompt leaves to a few running requests."""


@contextmanager
def prefills_counted(engine: SchedulerHarness) -> Iterator[Counter[str]]:
    """How many prefills had the running requests' rows in them, and how many left these out."""
    seen, scheduler = Counter[str](), engine.scheduler
    original = scheduler._get_new_batch_prefill_raw

    def counting(*args: Any, **kwargs: Any) -> Any:
        batch, running = original(*args, **kwargs)
        if batch is not None:
            is_mixed = batch.forward_mode.is_mixed()
            seen["mixed" if is_mixed else "alone" if running.is_empty() else "left out"] += 1
        return batch, running

    with mock.patch.object(scheduler, "_get_new_batch_prefill_raw", counting):
        yield seen


def chats(num_new: int) -> list[Ask]:
    return [Ask(prompt(6 + seed, seed=seed), num_new + seed) for seed in range(4)]


LONG = [Ask(prompt(150, seed=seed), 6, when=3 + seed) for seed in range(2)]


@LOOPS
@pytest.mark.parametrize("bands", TIGHT, ids=str)
def test_rows_that_do_not_fit_beside_a_chunk_sit_it_out_and_are_taken_back_exactly(
    small_checkpoints: Checkpoints, bands: Bands, loop: Mapping[str, Any]
) -> None:
    expected = small_checkpoints(bands)
    with (
        running_scheduler(expected.path, deep_tokens=TIGHT[bands], **MIXED, **loop) as engine,
        prefills_counted(engine) as seen,
    ):
        answers = expected.answered(engine, [*chats(24), *LONG])
        assert sum(answer.num_retractions for answer in answers), f"nobody was taken back: {seen}"
        assert min(seen["mixed"], seen["left out"]) >= 2, seen
        engine.flush()
        expected.answered(engine, [*LONG, *chats(24)])


@LOOPS
def test_every_chunk_has_the_rows_of_who_runs_where_there_is_room(
    small_checkpoints: Checkpoints, loop: Mapping[str, Any]
) -> None:
    """Each chunk is shorter by those rows."""
    expected = small_checkpoints(SPEED)
    with running_scheduler(expected.path, **MIXED, **loop) as engine, prefills_counted(engine) as seen:
        expected.answered(engine, [*chats(40), LONG[0]])
    assert seen["left out"] == 0
    assert seen["mixed"] >= 150 // (16 - len(chats(40))), seen


@LOOPS
def test_who_asks_for_log_probabilities_is_in_no_mixed_batch(
    small_checkpoints: Checkpoints, loop: Mapping[str, Any]
) -> None:
    """SGLang mixes neither their prompts nor their steps; a scored span stays one of its own."""
    expected, scored = small_checkpoints(SPEED), Ask(prompt(150), 6, scored_from=100, when=3)
    with running_scheduler(expected.path, **MIXED, **loop) as engine, prefills_counted(engine) as seen:
        expected.answered(engine, [*chats(40)[:2], scored])  # which start together, in one chunk
        expected.answered(engine, [Ask(prompt(9), 60, scored_from=9), LONG[1]])
    assert seen["mixed"] == 0, seen
