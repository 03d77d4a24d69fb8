"""A server that is far too small for what is asked of it stays exact, alive and clean.

STORM_SEED asks something else. The long form is `make test-storm`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest
from rich.console import Console

from tests.server.storm.examiner import Examiner
from tests.server.storm.kinds import KINDS
from tests.server.storm.report import Report
from tests.server.storm.setups import SETUPS
from tests.server.storm.storm import Storm
from tests.server.storm.watch import late_growth

SEED = int(os.environ.get("STORM_SEED", "1"))
NUM_THREADS = 16
LONG = 8
"""Decks that are played in the long form."""
GROWTH_MIB = 8.0
"""Seen: below 1.5 MiB, after 200 requests and after 2000. In the long form a leak of 16 KiB a request exceeds it."""


@dataclass(frozen=True)
class Played:
    """What was reported before, in and after a storm."""

    before: Report
    storm: Report
    after: Report
    num_rounds: int


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("priorities", 1), id="short"),
        *(pytest.param((name, LONG), id=name, marks=pytest.mark.storm) for name in SETUPS),
    ],
)
def played(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Played:
    """A storm on a server of its own, which SGLang's memory checks stop at the first leak."""
    name, num_rounds = request.param
    setup, storm_report = SETUPS[name], Report()
    checkpoint = setup.checkpoint(tmp_path_factory.mktemp(name))
    with setup.served(checkpoint) as server:
        storm = Storm(setup, server, Examiner(checkpoint, setup.adapters), SEED, NUM_THREADS)
        before = storm.calm()
        for number in range(num_rounds):
            storm_report += storm.round(number)
            assert server.is_alive, server.log[-6000:]
        after = storm.calm()
        assert server.is_alive, server.log[-6000:]
    Console(width=150).print(storm_report.table(f"{name}, seed {SEED}"))
    return Played(before, storm_report, after, num_rounds)


def test_every_answer_is_the_references_and_every_part_of_one_begins_it(played: Played) -> None:
    assert played.storm.mismatches == []
    assert played.storm.tokens_rounded <= played.storm.tokens_compared // 10_000


def test_every_request_ends_as_it_should(played: Played) -> None:
    """Answered, refused or stopped: nothing hangs, nothing is aborted that nobody aborted."""
    assert played.storm.errors == []
    missing = {kind.__name__ for kind in KINDS} - set(played.storm.answers) - {"flush", "abort_all"}
    assert not missing


def test_the_storm_presses(played: Played) -> None:
    """Both pools run out, again and again."""
    storm = played.storm
    counts = {
        "retractions": storm.retractions,
        "evicted": storm.counters["evicted_tokens_total"],
        "cached": storm.tokens_cached,
        "aborted": storm.ends["aborted"],
        "disconnected": storm.ends["disconnected"],
    }
    least = {"retractions": 5, "evicted": 5000, "cached": 2000, "aborted": 5, "disconnected": 5}
    assert all(counts[name] >= played.num_rounds * number for name, number in least.items()), counts
    assert storm.num_compared >= 100 * played.num_rounds
    assert storm.ends["refused"] > 0


def test_after_a_storm_the_server_answers_as_before(played: Played) -> None:
    """Exactly, from the cache as far as before, whole pools included, and without retractions."""
    for report in (played.before, played.after):
        assert report.is_clean, report.figures()
        assert report.retractions == 0
    assert played.before.tokens_cached > 0
    assert played.after.tokens_cached >= played.before.tokens_cached  # files outlive a flush


def test_memory_of_the_processes_is_flat(played: Played) -> None:
    assert late_growth(played.storm.rss_mib) < GROWTH_MIB
