"""The same requests give the same tokens whatever the settings are: chunks, pages, overlap, cache, order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests import host
from tests.catalogue import CASES, FOUR_ANCHORS, LONG_TAIL, NO_CACHE, SETTINGS, Bands
from tests.inprocess.parity.conftest import Checkpoints
from tests.inprocess.parity.expected import Ask, prompt, tokens
from tests.scheduler_harness import running_scheduler


def workload(seed: int) -> list[Ask]:
    """Requests that arrive together and later; of all lengths, some share prefixes, some are the same."""
    shared = prompt(70, seed=seed)
    asks = [Ask(prompt(length, seed=seed), 5) for length in (1, 2, 3, 5, 17, 33, 130)]
    asks += [Ask([*shared, *tokens(length, seed=length)], 7, when=length // 8) for length in (1, 2, 16, 40)]
    asks += [Ask(shared, 4)] * 3
    asks += [Ask(prompt(9, seed=1000 + seed, first=first), 6, when=3) for first in (40, 41, 42)]
    asks += [Ask(prompt(260, seed=seed), 9, when=4), Ask(shared[:40], 12, when=6), Ask(shared[:3], 20)]
    return asks


@pytest.mark.parametrize(("name", "bands"), CASES, ids=str)
def test_a_workload_of_all_kinds_is_exact(checkpoints: Checkpoints, name: str, bands: Bands) -> None:
    """Cold, then warm, then on an empty cache again."""
    if host.IS_OLDEST and "enable_mixed_chunk" in SETTINGS[name]:
        pytest.skip("refused there, see test_every_refusal_is_set_by_its_own_flag_alone")
    expected = checkpoints(bands)
    with running_scheduler(expected.path, **SETTINGS[name]) as engine:
        expected.answered(engine, workload(seed=0))
        expected.answered(engine, workload(seed=0)[:12])
        engine.flush()
        expected.answered(engine, workload(seed=1))


@pytest.mark.parametrize("settings", [{}, NO_CACHE], ids=["cache", "no cache"])
def test_requests_that_ignore_the_end_of_sequence_are_exact(
    checkpoints: Checkpoints, settings: Mapping[str, Any]
) -> None:
    """Without a cache SGLang admits them by an estimate of its own."""
    expected = checkpoints(LONG_TAIL)
    ignoring = {"sampling": {"ignore_eos": True}}
    with running_scheduler(expected.path, chunked_prefill_size=17, **settings) as engine:
        expected.answered(engine, [Ask(ask.prompt, 6, when=ask.when, fields=ignoring) for ask in workload(seed=0)])


def test_many_requests_at_once_are_exact(checkpoints: Checkpoints) -> None:
    expected = checkpoints(LONG_TAIL)
    with running_scheduler(expected.path, max_running_requests=48, chunked_prefill_size=64) as engine:
        expected.answered(engine, [Ask(prompt(1 + 7 * index % 61, seed=index), 1 + index % 9) for index in range(48)])


def test_chunks_of_one_token_are_exact(checkpoints: Checkpoints) -> None:
    """Every boundary is a chunk's: among the anchors, in the gap, in the tail, in a scored span."""
    expected = checkpoints(FOUR_ANCHORS)
    with running_scheduler(expected.path, chunked_prefill_size=1) as engine:
        expected.answered(engine, [Ask(prompt(length), 5, scored_from=length // 2) for length in (1, 5, 12)])
        expected.answered(engine, [Ask([*prompt(12), *tokens(9)], 5), Ask(prompt(9), 7)])
