"""An aborted request leaves no slot, no row and no wrong KV behind, wherever it stood."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from sglang.srt.managers.io_struct import AbortReq

from tests.inprocess.parity.expected import Ask, Expected, is_in_chunks, prompt, submit, tokens
from tests.scheduler_harness import SchedulerHarness, running_scheduler

SETTINGS = {
    "defaults": {},
    "no overlap": {"disable_overlap_schedule": True},
    "chunks of 16": {"chunked_prefill_size": 16},
    "chunks of 17, no overlap": {"chunked_prefill_size": 17, "disable_overlap_schedule": True},
    "pages, chunks of 16": {"page_size": 16, "chunked_prefill_size": 16},
    "no cache, chunks of 16": {"disable_radix_cache": True, "chunked_prefill_size": 16},
    "small deep band": {"deep_tokens": 40, "chunked_prefill_size": 16},
}
EVERY_SETTING = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)


def require_prefix(expected: Expected, engine: SchedulerHarness, name: str, ask: Ask) -> None:
    """What an aborted request had said is what the reference says first."""
    answer = engine.answers[name]
    assert answer.finish_reason is not None
    if answer.was_aborted:
        expected.require_tokens(answer.output_ids, ask, len(answer.output_ids))
    else:
        expected.require(answer, ask)  # it ended before the abort came


@EVERY_SETTING
def test_others_are_exact_whenever_one_is_aborted(expected: Expected, settings: Mapping[str, Any]) -> None:
    victim = Ask(prompt(90), 20, scored_from=80)
    others = [Ask(prompt(30), 9), Ask(victim.prompt[:50] + tokens(6), 9, when=3), Ask(prompt(70, seed=1), 4, when=5)]
    with running_scheduler(expected.path, **settings) as engine:
        for step in (0, 1, 2, 3, 5, 7, 11, 16, 23):
            name = submit(engine, victim)
            engine.abort(name, when=step)
            expected.answered(engine, others)
            require_prefix(expected, engine, name, victim)
        expected.answered(engine, [victim, *others])


@pytest.mark.parametrize("num_tokens", [0, 16, 64, 112])
@pytest.mark.parametrize("overlap", [True, False], ids=["overlap", "no overlap"])
def test_a_prompt_aborted_between_two_chunks_is_exact_afterwards(
    expected: Expected, overlap: bool, num_tokens: int
) -> None:
    """Its finished chunks may stay in the tree; its deep slots do not stay anywhere."""
    ask = Ask(prompt(150), 7)
    scored = Ask(ask.prompt, 7, scored_from=40)
    settings = {"chunked_prefill_size": 16, "disable_overlap_schedule": not overlap}
    with running_scheduler(expected.path, **settings) as engine:
        for one in (ask, scored):
            name = submit(engine, one)
            engine.abort(name, when=is_in_chunks(name, num_tokens))
            waiting = submit(engine, Ask(prompt(20), 3))
            engine.run()
            assert engine.answers[name].was_aborted
            assert engine.answers[name].output_ids == []
            expected.require(engine.answers[waiting], Ask(prompt(20), 3))
        expected.answered(engine, [ask, scored, Ask(prompt(40), 5)])


@EVERY_SETTING
def test_everything_can_be_aborted_at_once(expected: Expected, settings: Mapping[str, Any]) -> None:
    asks = [Ask(prompt(10 + 9 * seed, seed=seed), 12, when=seed // 2) for seed in range(10)]
    with running_scheduler(expected.path, **settings) as engine:
        for step in (1, 4, 9):
            names = [submit(engine, ask) for ask in asks]
            engine.send(AbortReq(abort_all=True), when=step)
            engine.run()
            for name, ask in zip(names, asks, strict=True):
                require_prefix(expected, engine, name, ask)
        expected.answered(engine, asks)


def test_the_abort_of_a_request_that_has_ended_changes_nothing(expected: Expected) -> None:
    with running_scheduler(expected.path) as engine:
        name = submit(engine, Ask(prompt(20), 3))
        engine.abort(name, when=9)
        expected.answered(engine, [Ask(prompt(25), 14)])
        expected.require(engine.answers[name], Ask(prompt(20), 3))
