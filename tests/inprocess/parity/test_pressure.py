"""When the deep band is exhausted requests wait, are taken back and resumed exactly, are cut, or are refused with a
reason; nobody is forgotten, and afterwards the scheduler is as fast as before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from tests.catalogue import Bands
from tests.inprocess.parity.conftest import Checkpoints
from tests.inprocess.parity.expected import Ask, Expected, prompt, submit
from tests.inprocess.parity.held_loop import HeldLoop, held_loop
from tests.scheduler_harness import Answer, SchedulerHarness, running_scheduler

OPTIMISTIC = {"schedule_conservativeness": 0.01}
NO_OVERLAP = {"disable_overlap_schedule": True}
LOOPS = pytest.mark.parametrize("loop", [{}, NO_OVERLAP], ids=["overlap", "no overlap"])


@pytest.fixture(scope="module")
def expected(small_checkpoints: Checkpoints) -> Expected:
    """One anchor, a tail of three: a prompt takes four deep slots."""
    return small_checkpoints(Bands(3, 1, 3))


def num_retractions(answers: list[Answer]) -> int:
    return sum(answer.num_retractions for answer in answers)


@LOOPS
def test_answers_that_outgrow_the_deep_band_together_are_exact(expected: Expected, loop: Mapping[str, Any]) -> None:
    """Short prompts, answers many times as long; whoever is taken back is prefilled with all that it has said."""
    asks = [Ask(prompt(5 + seed, seed=seed), 44, seed if seed % 2 else None, when=4 * seed) for seed in range(6)]
    settings = {"chunked_prefill_size": 16, **OPTIMISTIC, **loop}
    with running_scheduler(expected.path, deep_tokens=72, **settings) as engine:
        answers = expected.answered(engine, asks)
    assert num_retractions(answers) >= 2


@LOOPS
@pytest.mark.parametrize("deep_tokens", [60, 100, 140])
def test_a_scored_prompt_in_chunks_holds_its_slots_while_others_grow(
    expected: Expected, deep_tokens: int, loop: Mapping[str, Any]
) -> None:
    """It takes 50 deep slots before its first chunk, and its last chunk finds them."""
    running = [Ask(prompt(6 + seed, seed=seed), 14, when=seed) for seed in range(8)]
    settings = {"max_running_requests": 12, "chunked_prefill_size": 16, **OPTIMISTIC, **loop}
    with running_scheduler(expected.path, deep_tokens=deep_tokens, **settings) as engine:
        expected.answered(engine, [*running, Ask(prompt(150), 4, scored_from=100, when=6)])


@LOOPS
def test_cut_answers_are_exact_although_taken_back(expected: Expected, loop: Mapping[str, Any]) -> None:
    """All want more than the whole deep band, so all are cut to it, and only one of them can be done at a time."""
    asks = [Ask(prompt(10 + seed, seed=seed), 1000, when=4 * seed) for seed in range(4)]
    with running_scheduler(expected.path, deep_tokens=40, **OPTIMISTIC, **loop) as engine:
        names = [submit(engine, ask) for ask in asks]
        answers = engine.run()
        for name, ask in zip(names, asks, strict=True):
            expected.require(answers[name], replace(ask, max_new_tokens=36))


@LOOPS
def test_what_can_never_fit_is_refused_at_once_however_long_the_queue_is(
    expected: Expected, loop: Mapping[str, Any]
) -> None:
    with running_scheduler(expected.path, deep_tokens=40, **OPTIMISTIC, **loop) as engine:
        names = [submit(engine, Ask(prompt(60, seed=step), 5, scored_from=0, when=step)) for step in range(9)]
        answers = expected.answered(engine, [Ask(prompt(8 + seed, seed=seed), 12, when=2 * seed) for seed in range(9)])
        reasons = [engine.answers[name].finish_reason for name in names]
    assert num_retractions(answers) >= 1
    assert all("needs 60 deep tokens" in reason["message"] and "holds 40" in reason["message"] for reason in reasons)


@LOOPS
@pytest.mark.parametrize(("page_size", "shallow_tokens"), [(1, 64), (16, 96)])
def test_a_preempted_request_is_not_forgotten(
    expected: Expected, page_size: int, shallow_tokens: int, loop: Mapping[str, Any]
) -> None:
    """The urgent one preempts for its row, then finds the shallow band too short and waits."""
    settings = {"enable_priority_scheduling": True, "max_running_requests": 2, "page_size": page_size, **OPTIMISTIC}
    asks = [Ask(prompt(16, seed=seed), 14, fields={"priority": 0}) for seed in (1, 2)]
    urgent = Ask(prompt(50, seed=5), 1, when=8, fields={"priority": 40})
    with running_scheduler(
        expected.path, max_total_tokens=shallow_tokens, deep_tokens=100, **settings, **loop
    ) as engine:
        expected.answered(engine, [*asks, urgent])


MAX_TURNS = 2000


@LOOPS
def test_a_large_request_is_served_among_a_stream_of_small_ones(expected: Expected, loop: Mapping[str, Any]) -> None:
    """It needs the whole deep band. First come, first served: it waits for those before it, not for those after it."""
    small, large = Ask(prompt(10), 6), Ask(prompt(30), 36)
    with (
        running_scheduler(expected.path, deep_tokens=40, **OPTIMISTIC, **loop) as engine,
        held_loop(engine) as held,
    ):
        for _ in range(20):
            submit(engine, small)
            held.turn()
        name, later = submit(engine, large), []
        while engine.answers[name].finish_reason is None:
            later.append(submit(engine, small))
            held.turn()
            assert held.num_turns < MAX_TURNS
        expected.require(engine.answers[name], large)
        assert all(engine.answers[other].finish_reason is None for other in later[:-1]), "nobody overtook it"
        held.drain()
        for other in later:
            expected.require(engine.answers[other], small)


def forwards_for(expected: Expected, engine: SchedulerHarness, asks: list[Ask]) -> int:
    """Forwards that a workload takes on empty caches."""
    engine.flush()
    before = engine.scheduler.forward_ct
    expected.answered(engine, asks)
    return engine.scheduler.forward_ct - before


@LOOPS
def test_once_idle_a_workload_takes_as_many_steps_as_before_the_pressure(
    expected: Expected, loop: Mapping[str, Any]
) -> None:
    """SGLang forgets its caution when it is idle."""
    workload = [Ask(prompt(10 + seed, seed=seed), 12) for seed in range(8)]
    pressure = [Ask(prompt(6 + seed, seed=seed), 24, when=2 * seed) for seed in range(10)]
    with running_scheduler(expected.path, deep_tokens=50, **OPTIMISTIC, **loop) as engine:
        before = forwards_for(expected, engine, workload)
        for _ in range(2):
            assert num_retractions(expected.answered(engine, pressure)) >= 3
            assert forwards_for(expected, engine, workload) == before


class Busy:
    """A scheduler that always has something to do besides: it never resets what it learnt from pressure."""

    def __init__(self, held: HeldLoop) -> None:
        self.held, self.engine, self.background = held, held.engine, list[str]()

    def turn(self) -> None:
        if len(self._unanswered(self.background)) < 2:
            self.background.append(submit(self.engine, Ask(prompt(8, seed=len(self.background) % 3), 20)))
        self.held.turn()
        assert self.held.num_turns < MAX_TURNS

    def turns_for(self, expected: Expected, asks: list[Ask], every: int = 0) -> int:
        """Turns until a workload is answered; `every` so many turns one request comes, or all at once."""
        first_turn, names = self.held.num_turns, list[str]()
        for ask in asks:
            names.append(submit(self.engine, ask))
            for _ in range(every):
                self.turn()
        while self._unanswered(names):
            self.turn()
        for name, ask in zip(names, asks, strict=True):
            expected.require(self.engine.answers[name], ask)
        return self.held.num_turns - first_turn

    def _unanswered(self, names: list[str]) -> list[str]:
        return [name for name in names if self.engine.answers[name].finish_reason is None]


@LOOPS
def test_under_load_a_workload_takes_as_many_steps_again_when_caution_has_decayed(
    expected: Expected, loop: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a retraction SGLang expects longer answers of those who run (`new_token_ratio`), and starts fewer beside
    them. Every decode step takes back a part of the way from its first to its lowest value, here a 60th."""
    monkeypatch.setenv("SGLANG_NEW_TOKEN_RATIO_DECAY_STEPS", "60")
    workload = [Ask(prompt(10 + seed, seed=seed), 12) for seed in range(8)]
    pressure = [Ask(prompt(6 + seed, seed=seed), 40) for seed in range(10)]
    with (
        running_scheduler(expected.path, deep_tokens=90, schedule_conservativeness=0.5, **loop) as engine,
        held_loop(engine) as held,
    ):
        busy, tracker = Busy(held), engine.scheduler.new_token_ratio_tracker
        busy.turns_for(expected, workload)
        before = [busy.turns_for(expected, workload) for _ in range(4)]
        busy.turns_for(expected, pressure, every=3)
        assert any(engine.answers[name].num_retractions for name in engine.answers)
        while tracker.current > tracker.min:
            busy.turn()
        after = [busy.turns_for(expected, workload) for _ in range(4)]
        assert sum(after) <= sum(before) + 4, f"turns for the same requests {before=}, {after=}"
        held.drain()
