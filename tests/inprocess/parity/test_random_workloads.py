"""Random requests at random times, some scored, some aborted, under random settings: each answer is the reference's,
or says why there is none."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sglang_speed.policies import ThinnedPolicy
from tests.catalogue import POP, POP_WITH_ANCHORS, STATE_BANDS, Bands
from tests.inprocess.parity.conftest import Checkpoints
from tests.inprocess.parity.expected import Ask, Expected, prompt, submit, tokens
from tests.scheduler_harness import Answer, SchedulerHarness, running_scheduler

BANDS = [Bands(6, 1, 3), Bands(4, 4, 2), Bands(6, 0, 16), Bands(5, 2, 1), POP, POP_WITH_ANCHORS, *STATE_BANDS]
TRUNKS = [prompt(64, seed=1), prompt(64, seed=2), prompt(64, seed=2)[:20] + tokens(44), prompt(64, first=70)]
SMALLEST_DEEP_BAND = 24


@dataclass(frozen=True)
class Event:
    """A request and, where it is aborted, the step at which."""

    ask: Ask
    aborted_at: int | None


@dataclass(frozen=True)
class Scenario:
    bands: Bands
    settings: dict[str, Any] = field(default_factory=dict)
    rounds: tuple[tuple[Event, ...], ...] = ()

    @property
    def deep_tokens(self) -> int:
        return self.settings["deep_tokens"]


@st.composite
def events(draw: st.DrawFn) -> Event:
    question = draw(st.sampled_from(TRUNKS))[: draw(st.integers(1, 64))]
    question = question + tokens(draw(st.integers(0, 12)), seed=draw(st.integers(0, 2)))
    scored_from = draw(st.none() | st.none() | st.integers(0, len(question)))
    fields: dict[str, Any] = {"priority": draw(st.sampled_from([0, 0, 20, 40]))}
    fields |= {"extra_key": "another"} if draw(st.integers(0, 5)) == 0 else {}
    when = draw(st.integers(0, 12))
    ask = Ask(question, draw(st.integers(0, 12)), scored_from, when, fields)
    aborted = draw(st.integers(0, 4)) == 0
    return Event(ask, when + draw(st.integers(0, 10)) if aborted else None)


@st.composite
def scenarios(draw: st.DrawFn, smallest_deep_band: int = SMALLEST_DEEP_BAND) -> Scenario:
    choices = {
        "deep_tokens": draw(st.sampled_from([smallest_deep_band, smallest_deep_band + 16, 80, 400])),
        "max_total_tokens": draw(st.sampled_from([256, 2048])),
        "page_size": draw(st.sampled_from([1, 1, 16])),
        "chunked_prefill_size": draw(st.sampled_from([16, 32, 48, -1])),
        "disable_overlap_schedule": draw(st.booleans()),
        "disable_radix_cache": draw(st.integers(0, 4)) == 0,
        "max_running_requests": draw(st.sampled_from([2, 5, 16])),
        "schedule_conservativeness": draw(st.sampled_from([0.01, 1.0])),
        "schedule_policy": draw(st.sampled_from(["fcfs", "lpm"])),
        "enable_priority_scheduling": draw(st.booleans()),
        "retract_every": draw(st.sampled_from([None, None, 4])),
    }
    rounds = draw(st.lists(st.lists(events(), min_size=1, max_size=8).map(tuple), min_size=1, max_size=2).map(tuple))
    return Scenario(draw(st.sampled_from(BANDS)), choices, rounds)


def room_for(expected: Expected, ask: Ask, deep_tokens: int) -> int:
    """Tokens that a request may generate before it has as many deep tokens as the deep band holds."""
    num_tokens, deep = len(ask.prompt), expected.model.deep_tokens(ask.prompt, ask.scored_from)[0]
    if expected.bands.kv_keep is None:
        return deep_tokens - deep.num_before(num_tokens)
    behind = ThinnedPolicy.of(expected.model.config.speed_config).deep_tokens(num_tokens, ask.scored_from)
    fits = deep.context is not None and deep.context.num_deep <= deep_tokens
    return deep_tokens - behind.num_before(num_tokens) if fits else -1


def require(expected: Expected, scenario: Scenario, event: Event, answer: Answer, num_ahead: int) -> None:
    assert answer.finish_reason is not None
    ask, room = event.ask, room_for(expected, event.ask, scenario.deep_tokens) - num_ahead
    if room < min(1, ask.max_new_tokens):
        assert answer.was_aborted, "it can never fit"
    elif answer.was_aborted:
        assert event.aborted_at is not None, answer.finish_reason
        expected.require_tokens(answer.output_ids, ask, len(answer.output_ids))
    else:
        clipped = Ask(ask.prompt, min(ask.max_new_tokens, room), ask.scored_from)
        expected.require(answer, clipped)


def play(expected: Expected, scenario: Scenario, engine: SchedulerHarness, num_ahead: int = 0) -> None:
    """num_ahead: places that drafts take of what a request may have in a deep band."""
    for round_ in scenario.rounds:
        names = [submit(engine, event.ask) for event in round_]
        for name, event in zip(names, round_, strict=True):
            if event.aborted_at is not None:
                engine.abort(name, when=event.aborted_at)
        answers = engine.run()
        for name, event in zip(names, round_, strict=True):
            require(expected, scenario, event, answers[name], num_ahead)


@settings(
    max_examples=20,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
@given(scenario=scenarios())
def test_random_workloads_are_exact(checkpoints: Checkpoints, scenario: Scenario) -> None:
    expected = checkpoints(scenario.bands)
    with running_scheduler(expected.path, **scenario.settings) as engine:
        play(expected, scenario, engine)
