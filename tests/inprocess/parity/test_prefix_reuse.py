"""What requests share changes no token: chats, branches, identical requests, anchors, namespaces, flushes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from sglang_speed.served import active_pool
from tests.catalogue import (
    CHUNKS_OF_16,
    NO_OVERLAP,
    PAGES,
    POP,
    POP_WITH_ANCHORS,
    RETRACTED,
    STATE_BANDS,
    Bands,
)
from tests.inprocess.parity.conftest import Checkpoints
from tests.inprocess.parity.expected import Ask, Expected, forget_anchors, is_in_chunks, prompt, tokens
from tests.scheduler_harness import SchedulerHarness, running_scheduler

LOSING_ANCHORS = [Bands(6, 1, 2), Bands(6, 4, 2), Bands((2, 5), 4, 2), POP_WITH_ANCHORS]
LOSING: list[Mapping[str, Any]] = [{}, CHUNKS_OF_16, PAGES | NO_OVERLAP, RETRACTED]
CACHES = {
    "plain": {},
    "pages": {"page_size": 16},
    "chunks of 17": {"chunked_prefill_size": 17},
    "pages, no overlap": {"page_size": 16, "disable_overlap_schedule": True},
}


def chat(expected: Expected, engine: SchedulerHarness, seed: int, num_turns: int = 5) -> list[int]:
    """Take turns; each prompt holds all answers before it. Returns the tokens cached in each turn."""
    history, cached = prompt(20, seed=seed), []
    for turn in range(num_turns):
        (answer,) = expected.answered(engine, [Ask(history, 11)])
        history = history + answer.output_ids + tokens(7 + turn, seed=seed)
        cached.append(answer.cached_tokens)
    return cached


@pytest.mark.parametrize("bands", [Bands(6, 1, 3), Bands(4, 0, 16), Bands(6, 4, 1), POP, *STATE_BANDS], ids=str)
@pytest.mark.parametrize("cache", CACHES)
def test_prefixes_with_generated_tokens_are_reused_exactly(checkpoints: Checkpoints, cache: str, bands: Bands) -> None:
    with running_scheduler(checkpoints(bands).path, **CACHES[cache]) as engine:
        cached = chat(checkpoints(bands), engine, seed=3)
    assert cached[0] == 0
    assert all(later > 20 for later in cached[2:]), f"{cached=}: answers were not reused"


@pytest.mark.parametrize("cache", CACHES)
def test_branches_off_a_shared_prefix_are_exact(expected: Expected, cache: str) -> None:
    """The last prompt token of one request is an inner token of another, and the other way round."""
    trunk = prompt(64, seed=5)
    branches = [
        Ask([*trunk[:cut], *tokens(extra, seed=cut)]) for cut in (1, 15, 16, 17, 47, 63, 64) for extra in (0, 1, 9)
    ]
    with running_scheduler(expected.path, **CACHES[cache]) as engine:
        expected.answered(engine, [Ask(trunk)])
        for ask in branches:
            expected.answered(engine, [ask])
        expected.answered(engine, branches)
        expected.answered(engine, [Ask(trunk[:length]) for length in range(64, 0, -7)])


@pytest.mark.parametrize("settings", CACHES)
def test_identical_requests_are_exact(expected: Expected, settings: str) -> None:
    same = Ask(prompt(37, seed=9), 9)
    with running_scheduler(expected.path, **CACHES[settings]) as engine:
        expected.answered(engine, [same] * 8)
        expected.answered(engine, [Ask(same.prompt, 9, when=step) for step in range(6)])


@pytest.mark.parametrize("anchor_tokens", [1, 4])
def test_anchors_that_start_cold_together_are_computed_by_each(checkpoints: Checkpoints, anchor_tokens: int) -> None:
    expected = checkpoints(Bands(6, anchor_tokens, 3))
    first = prompt(anchor_tokens)
    with running_scheduler(expected.path) as engine:
        expected.answered(engine, [Ask(first + tokens(12 + seed, seed=seed)) for seed in range(5)])
        deep = active_pool().deep_bands[0]
        assert deep.anchors.num_slots == anchor_tokens, "one entry serves all requests from now on"
        expected.answered(engine, [Ask(first + tokens(12 + seed, seed=seed)) for seed in range(3, 8)])


@pytest.mark.parametrize("bands", LOSING_ANCHORS, ids=str)
@pytest.mark.parametrize("settings", LOSING, ids=str)
def test_a_hit_without_its_anchors_is_exact_and_as_long_as_with_them(
    checkpoints: Checkpoints, settings: Mapping[str, Any], bands: Bands
) -> None:
    """They are computed by themselves, in one batch with prompts of which nothing is known."""
    expected = checkpoints(bands)
    cold = [Ask(prompt(30, seed=7), 4), Ask(prompt(60, seed=9, first=50), 4, scored_from=50)]
    asks = [Ask(prompt(40 + length, seed=length, first=40 + length % 2), 5) for length in range(5)]
    longer = [Ask([*ask.prompt, *tokens(9)], 5) for ask in asks]
    with running_scheduler(expected.path, **settings) as engine:
        expected.answered(engine, asks)
        with_anchors = expected.answered(engine, asks)
        for some in (asks, [cold[0], *longer, cold[1]], longer):
            forget_anchors()
            answers = expected.answered(engine, some)
            assert sum(answer.cached_tokens >= with_anchors[0].cached_tokens > 20 for answer in answers) == len(asks)


@pytest.mark.parametrize("bands", LOSING_ANCHORS, ids=str)
def test_anchors_that_come_and_go_change_nothing(checkpoints: Checkpoints, bands: Bands) -> None:
    """Many first tokens, room for few anchors, prefixes that stay in the tree when their anchors are gone."""
    expected = checkpoints(bands)
    asks = [Ask(prompt(20 + first % 7, seed=first, first=first), 3) for first in range(40, 70)]
    with running_scheduler(expected.path, deep_tokens=24, max_running_requests=6, **CHUNKS_OF_16) as engine:
        expected.answered(engine, asks)
        for again in (asks[::-1], asks):
            assert all(answer.cached_tokens > 16 for answer in expected.answered(engine, again))
        assert active_pool().deep_bands[0].counters.evicted_tokens
        assert 0 < active_pool().deep_bands[0].anchors.num_slots < bands.anchor_tokens * len(asks)


def test_a_hit_of_lost_anchors_alone_is_none(checkpoints: Checkpoints) -> None:
    """It would be computed again by itself, and save nothing."""
    expected, first = checkpoints(Bands(6, 9, 3)), prompt(30)
    for settings in ({}, {"chunked_prefill_size": 4}, {"page_size": 4}):
        with running_scheduler(expected.path, **settings) as engine:
            expected.answered(engine, [Ask(first, 5)])
            for length, cached in ((9, 0), (8, 0), (1, 0), (12, 12)):
                forget_anchors()
                ask = Ask(first[:length] + tokens(20, seed=length), 5)
                assert [answer.cached_tokens for answer in expected.answered(engine, [ask])] == [cached]
                expected.answered(engine, [ask])


def test_chunks_that_end_among_the_anchors_are_exact(checkpoints: Checkpoints) -> None:
    """Anchors computed over several forwards are not shared before they are complete."""
    expected = checkpoints(Bands(6, 9, 3))
    with running_scheduler(expected.path, chunked_prefill_size=4) as engine:
        expected.answered(engine, [Ask(prompt(30), 5), Ask(prompt(30)[:20] + tokens(5), 5), Ask(prompt(30), 5, when=2)])
        expected.answered(engine, [Ask(prompt(9) + tokens(length), 5) for length in range(1, 9)])


@pytest.mark.parametrize(("chunk", "num_done", "num_shared"), [(4, 0, 0), (4, 4, 0), (4, 12, 0), (12, 12, 9)])
def test_anchors_of_an_aborted_prompt_are_shared_only_if_one_chunk_had_them_all(
    checkpoints: Checkpoints, chunk: int, num_done: int, num_shared: int
) -> None:
    expected = checkpoints(Bands(6, 9, 3))
    with running_scheduler(expected.path, chunked_prefill_size=chunk) as engine:
        name = engine.submit(prompt(40))
        engine.abort(name, when=is_in_chunks(name, num_done))
        engine.run()
        assert engine.answers[name].was_aborted
        assert active_pool().deep_bands[0].anchors.num_slots == num_shared
        expected.answered(engine, [Ask(prompt(40), 5), Ask(prompt(12) + tokens(9), 5)])


def test_namespaces_share_nothing(expected: Expected) -> None:
    question = prompt(40, seed=2)
    with running_scheduler(expected.path) as engine:
        for key in (None, "one", "other"):
            for _ in range(2):
                (answer,) = expected.answered(engine, [Ask(question, fields={"extra_key": key})])
            assert answer.cached_tokens == 37
        assert active_pool().deep_bands[0].anchors.num_slots == 3, "one anchor for each namespace"
        engine.flush()
        cold = expected.answered(engine, [Ask(question, fields={"extra_key": key}) for key in ("one", "other")])
    assert [answer.cached_tokens for answer in cold] == [0, 0]


def test_a_flush_forgets_anchors_and_prefixes(expected: Expected) -> None:
    with running_scheduler(expected.path) as engine:
        for _ in range(3):
            (answer,) = expected.answered(engine, [Ask(prompt(40))])
            assert answer.cached_tokens == 0
            assert active_pool().deep_bands[0].num_used == 1
            engine.flush()
            assert active_pool().deep_bands[0].num_used == 0


def test_embeddings_never_share_anchors(checkpoints: Checkpoints) -> None:
    """Their token ids are placeholders, so equal ids say nothing about equal KV. SGLang casts embeddings to bfloat16,
    so the model runs in it, and the same scheduler, asked by token ids on an empty cache, is the measure."""
    expected = checkpoints(Bands())
    table = expected.model.get_input_embeddings().weight.detach().bfloat16().float()
    questions = [prompt(20, seed=seed, first=first) for seed, first in ((1, 50), (2, 60), (3, 1))]
    settings = {"disable_radix_cache": True, "chunked_prefill_size": 16, "dtype": "bfloat16"}
    with running_scheduler(expected.path, **settings) as engine:
        by_ids = []
        for question in questions:
            by_ids.append(engine.ask(question).output_ids)
            engine.flush()
        engine.ask([1] * 20)
        assert active_pool().deep_bands[0].anchors.num_slots == 1, "the placeholder's anchor, which must not be used"
        by_embeddings = [
            engine.ask(question, input_embeds=table[question].tolist()).output_ids for question in questions
        ]
        assert active_pool().deep_bands[0].anchors.num_slots == 1, "no embedding was taken for a token"
    assert by_embeddings == by_ids
