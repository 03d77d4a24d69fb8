"""Eviction takes from the pool that is short, and the counters tell which band did what: hits, evictions, retractions,
refusals. A workload that reuses nothing does not look like one that does."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_speed.served import active_pool, served
from sglang_speed.serving.metrics import count_retractions, counts_of
from tests.catalogue import Bands
from tests.host import num_tree_tokens
from tests.inprocess.parity.conftest import Checkpoints
from tests.inprocess.parity.expected import Ask, Expected, prompt, submit, tokens
from tests.scheduler_harness import running_scheduler

OPTIMISTIC = {"schedule_conservativeness": 0.01}
CHUNKS = pytest.mark.parametrize("settings", [{}, {"chunked_prefill_size": 16}], ids=str)


def counts() -> dict[str, int]:
    """The counters of the running scheduler that are not 0."""
    model = served()
    assert model is not None
    by_band = counts_of(model).items()
    return {f"{band}_{name}": count for band, each in by_band for name, count in each.items() if count}


@CHUNKS
def test_a_workload_that_shares_nothing_counts_no_reuse(expected: Expected, settings: Mapping[str, Any]) -> None:
    asks = [Ask(prompt(30, seed=first, first=first), 4) for first in range(40, 52)]
    with running_scheduler(expected.path, **settings) as engine:
        expected.answered(engine, asks)
        assert counts() == {
            "shallow_prompt_tokens": 12 * 30,
            "deep_prompt_tokens": 12 * (1 + 3),
            "deep_anchor_misses": 12,
        }


@CHUNKS
def test_reuse_is_counted_for_each_band(expected: Expected, settings: Mapping[str, Any]) -> None:
    """The tail of three is computed again; the anchor is not."""
    with running_scheduler(expected.path, **settings) as engine:
        for _ in range(3):
            expected.answered(engine, [Ask(prompt(40), 4)])
        assert counts() == {
            "shallow_prompt_tokens": 3 * 40,
            "shallow_reused_tokens": 2 * 37,
            "deep_prompt_tokens": 3 * 4,
            "deep_reused_tokens": 2 * 1,
            "deep_anchor_misses": 1,
        }


@pytest.mark.parametrize("retract_every", [None, 3])
def test_what_a_retracted_request_finds_of_itself_is_no_reuse(expected: Expected, retract_every: int | None) -> None:
    asks = [Ask(prompt(20, seed=first, first=first), 16) for first in range(40, 44)]
    with running_scheduler(expected.path, retract_every=retract_every) as engine:
        answers = expected.answered(engine, asks)
        assert any(answer.num_retractions for answer in answers) == (retract_every is not None)
        assert counts()["shallow_prompt_tokens"] == 4 * 20
        assert "shallow_reused_tokens" not in counts()


def test_prompts_with_different_first_tokens_are_reused_round_after_round(checkpoints: Checkpoints) -> None:
    """As many anchors are kept as there is room for."""
    expected = checkpoints(Bands(6, 4, 2))
    asks = [Ask(prompt(20, seed=first, first=first), 3) for first in range(40, 70)]
    with running_scheduler(expected.path, deep_tokens=4 * 30 + 9, max_running_requests=1) as engine:
        expected.answered(engine, asks)
        for _ in range(2):
            assert [answer.cached_tokens for answer in expected.answered(engine, asks)] == [18] * 30
        assert "deep_evicted_tokens" not in counts()


def test_a_short_deep_band_evicts_anchors_and_leaves_the_tree_alone(expected: Expected) -> None:
    asks = [Ask(prompt(20, seed=first, first=first), 3) for first in range(40, 70)]
    with running_scheduler(expected.path, deep_tokens=20) as engine:
        expected.answered(engine, asks)
        assert counts()["deep_evicted_tokens"] >= 30 - 20
        assert "shallow_evicted_tokens" not in counts()
        assert num_tree_tokens(engine.scheduler.tree_cache) >= 30 * 20


def test_a_short_shallow_band_evicts_prefixes_and_leaves_anchors_alone(expected: Expected) -> None:
    asks = [Ask(prompt(50, seed=first, first=first), 3) for first in range(40, 70)]
    with running_scheduler(expected.path, max_total_tokens=256, deep_tokens=400) as engine:
        expected.answered(engine, asks)
        assert counts()["shallow_evicted_tokens"] >= 30 * 50 - 256
        assert "deep_evicted_tokens" not in counts()
        assert active_pool().deep_bands[0].anchors.num_slots == 30


@pytest.mark.parametrize(
    ("band", "pools"),
    [("shallow", {"max_total_tokens": 128, "deep_tokens": 400}), ("deep", {"deep_tokens": 80})],
)
def test_retractions_are_counted_for_the_band_that_was_short(
    expected: Expected, band: str, pools: Mapping[str, int]
) -> None:
    asks = [Ask(prompt(6 + seed, seed=seed), 24, when=2 * seed) for seed in range(9)]
    with running_scheduler(expected.path, **pools, **OPTIMISTIC) as engine:
        answers = expected.answered(engine, asks)
        retractions = {name: count for name, count in counts().items() if name.endswith("retracted_requests")}
        assert retractions == {f"{band}_retracted_requests": sum(answer.num_retractions for answer in answers)}


def test_a_preempted_request_is_no_sign_of_a_short_band(expected: Expected) -> None:
    """It made way for another's priority, although SGLang tells its client of a retraction."""
    asks = [Ask(prompt(10), 12, fields={"priority": 0}), Ask(prompt(12), 2, when=6, fields={"priority": 40})]
    with running_scheduler(expected.path, enable_priority_scheduling=True, max_running_requests=1) as engine:
        answers = expected.answered(engine, asks)
        assert [answer.num_retractions for answer in answers] == [1, 0]
        assert not {name for name in counts() if name.endswith("retracted_requests")}


@pytest.mark.parametrize(("band", "batch_size"), [("shallow", 3), ("deep", 30)])
def test_who_is_aborted_for_want_of_room_is_not_counted_as_retracted(
    expected: Expected, band: str, batch_size: int
) -> None:
    """Of a batch that does not fit SGLang retracts two requests and aborts the third."""
    with running_scheduler(expected.path, deep_tokens=20):
        batch: Any = SimpleNamespace(req_to_token_pool=active_pool(), reqs=[None] * batch_size)
        count_retractions(lambda *_: (["one", "two"], 0.5, ["three"]), batch)
        assert counts() == {f"{band}_retracted_requests": 2, f"{band}_aborted_requests": 1}


def test_refused_and_clipped_requests_are_counted(expected: Expected) -> None:
    with running_scheduler(expected.path, deep_tokens=20) as engine:
        for ask in (Ask(prompt(40), 4, scored_from=0), Ask(prompt(40), 60), Ask(prompt(30) + tokens(2), 60)):
            submit(engine, ask)
        engine.run()
        assert counts()["deep_refused_requests"] == 1
        assert counts()["deep_clipped_requests"] == 2
        assert counts()["shallow_prompt_tokens"] == 40 + 32, "a refused prompt was never served"
