"""A small deep band delays, clips or refuses; it never changes a token, never stops the scheduler, never hangs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from sglang_speed.errors import ConfigError
from sglang_speed.kv_pool.deep_band import DeepBand
from sglang_speed.served import active_pool
from sglang_speed.serving.admission import fit_to_deep_bands
from tests.catalogue import Bands
from tests.inprocess.parity.conftest import Checkpoints
from tests.inprocess.parity.expected import Ask, Expected, prompt, submit, tokens
from tests.scheduler_harness import SchedulerHarness, running_scheduler

NO_OVERLAP = {"disable_overlap_schedule": True}
LOOPS = pytest.mark.parametrize("loop", [{}, NO_OVERLAP], ids=["overlap", "no overlap"])


def require_next_is_served(expected: Expected, engine: SchedulerHarness) -> None:
    expected.answered(engine, [Ask(prompt(12), 4)])


@LOOPS
@pytest.mark.parametrize("max_new_tokens", [0, 1, 64])
def test_a_prompt_that_can_never_fit_is_refused(
    expected: Expected, max_new_tokens: int, loop: Mapping[str, Any]
) -> None:
    """And whoever waits behind it is served, however many tokens the refused request wanted."""
    with running_scheduler(expected.path, deep_tokens=20, **loop) as engine:
        name = submit(engine, Ask(prompt(40), max_new_tokens, scored_from=0))
        expected.answered(engine, [Ask(prompt(12), 4), Ask(prompt(60), 9)])
        reason = engine.answers[name].finish_reason
        assert reason["type"] == "abort"
        assert "needs 40 deep tokens" in reason["message"]
        assert "holds 20" in reason["message"]
        require_next_is_served(expected, engine)


@LOOPS
def test_what_sglang_refuses_does_not_block_the_queue(expected: Expected, loop: Mapping[str, Any]) -> None:
    """SGLang runs a refused request for one token; it must not wait for room for all it would have generated."""
    with running_scheduler(expected.path, deep_tokens=20, **loop) as engine:
        name = engine.submit(prompt(10), 64, logprob_start_len=11)
        expected.answered(engine, [Ask(prompt(12), 4)])
        assert engine.answers[name].was_aborted


@LOOPS
@pytest.mark.parametrize(("scored_from", "num_deep"), [(None, 4), (30, 4), (20, 12), (9, 23)])
def test_an_answer_is_cut_where_the_deep_band_ends(
    expected: Expected, scored_from: int | None, num_deep: int, loop: Mapping[str, Any]
) -> None:
    """Of 24 slots the prompt takes one for its anchor and those of its tail or its scored span."""
    ask = Ask(prompt(31), 64, scored_from=scored_from)
    with running_scheduler(expected.path, deep_tokens=24, **loop) as engine:
        name = submit(engine, ask)
        answer = engine.run()[name]
        assert answer.finish_reason == {"type": "length", "length": 24 - num_deep}
        expected.require_tokens(answer.output_ids, ask, 24 - num_deep)
        require_next_is_served(expected, engine)


@LOOPS
@pytest.mark.parametrize("anchor_tokens", [0, 1, 4])
def test_a_request_may_fill_the_deep_band_to_the_last_slot(
    checkpoints: Checkpoints, anchor_tokens: int, loop: Mapping[str, Any]
) -> None:
    """Unused anchors of others make room, alone and when the requests wait for each other."""
    expected = checkpoints(Bands(6, anchor_tokens, 3))
    size = 24
    largest = size - anchor_tokens - 3
    asks = [Ask(prompt(30, seed=first, first=first), largest) for first in (50, 60, 70, 50)]
    with running_scheduler(expected.path, deep_tokens=size, **loop) as engine:
        for ask in asks:
            expected.answered(engine, [ask])
        expected.answered(engine, asks)
        expected.answered(engine, [Ask(prompt(size), 0, scored_from=0), Ask(prompt(size - 1), 1, scored_from=0)])
        assert active_pool().deep_bands[0].capacity == size


@pytest.mark.parametrize("settings", [{}, {"chunked_prefill_size": 16}, NO_OVERLAP], ids=str)
def test_requests_wait_for_room_in_the_deep_band(expected: Expected, settings: Mapping[str, Any]) -> None:
    asks = [Ask(prompt(20 + seed, seed=seed), 3 + seed) for seed in range(12)]
    with running_scheduler(expected.path, deep_tokens=32, **settings) as engine:
        answers = expected.answered(engine, asks)
        assert not any(answer.num_retractions for answer in answers), "nothing was started that could not end"


@pytest.mark.parametrize("deep_tokens", [40, 60, 100, 120])
@LOOPS
def test_a_long_prompt_in_chunks_leaves_running_requests_their_next_slots(
    expected: Expected, deep_tokens: int, loop: Mapping[str, Any]
) -> None:
    """SGLang started more requests than fit to the end; meanwhile the long prompt holds its deep slots."""
    running = [Ask(prompt(6 + seed, seed=seed), 12) for seed in range(10)]
    optimistic = {"schedule_conservativeness": 0.01, "max_running_requests": 16, "chunked_prefill_size": 16}
    with running_scheduler(expected.path, deep_tokens=deep_tokens, **optimistic, **loop) as engine:
        expected.answered(engine, [*running, Ask(prompt(400), 4, when=6)])


@pytest.mark.parametrize(
    ("deep_tokens", "message"), [(4, "room for 4 tokens, but one request needs 5"), (1, "needs 5")]
)
def test_a_deep_band_that_holds_no_request_is_refused_at_start_up(
    expected: Expected, deep_tokens: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message), running_scheduler(expected.path, deep_tokens=deep_tokens):
        pass


def test_the_smallest_deep_band_serves_one_request_at_a_time(expected: Expected) -> None:
    with running_scheduler(expected.path, deep_tokens=5) as engine:
        expected.answered(engine, [Ask(prompt(40, seed=seed), 1) for seed in range(4)])
        expected.answered(engine, [Ask([*prompt(40), *tokens(length)], 1) for length in range(4)])


def test_images_are_refused_before_they_wait(expected: Expected) -> None:
    """As SGLang hands them over: processed, in a request that was not queued yet."""
    reasons: list[str] = []
    req = SimpleNamespace(
        multimodal_inputs=object(),
        token_indices_to_pool=None,
        return_hidden_states=False,
        set_finish_with_abort=reasons.append,
        to_finish=object(),
    )
    with running_scheduler(expected.path) as engine:
        fit_to_deep_bands(engine.scheduler, req)
    assert len(reasons) == 1
    assert "images, video and audio are not supported with a SPEED model" in reasons[0]


def test_who_waits_for_deep_slots_starts_when_another_begins_to_decode(checkpoints: Checkpoints) -> None:
    """Where contexts are thinned: the deep band has room for one of three prompts, and all answer at once."""
    expected = checkpoints(Bands(4, 1, 3, "fastkv", select_ratio=0.9, select_window=4, kv_keep=0.1))
    together, take = [0], DeepBand.extend_by_one

    def counting(band: DeepBand, rows: Sequence[int], *args: Any) -> None:
        together.append(len(rows))
        take(band, rows, *args)

    with (
        running_scheduler(expected.path, deep_tokens=60) as engine,
        mock.patch.object(DeepBand, "extend_by_one", counting),
    ):
        expected.answered(engine, [Ask(prompt(60, seed=seed), 12) for seed in range(3)])
    assert max(together) == 3
