"""Many clients of one server at once, round after round.

A round is a deck of episodes that a number of threads work through; what they report is compared with the reference
meanwhile, in the thread that runs the round. After each round nothing may be left on the server.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue

import requests

from sglang_speed.policies import ThinnedPolicy
from tests.server.servers import RunningServer
from tests.server.storm.client import Client
from tests.server.storm.examiner import Examiner, Verdict
from tests.server.storm.kinds import Episode, deck
from tests.server.storm.questions import Outcome, Question
from tests.server.storm.report import Report
from tests.server.storm.setups import Setup
from tests.server.storm.watch import Watch, server_counters, speed_states
from tests.tiny_models import BOS_ID

IDLE_SECONDS = 300.0
"""Requests that nobody waits for are gone by then."""
Episodes = deque[tuple[Callable[[Episode], None], Episode]]


class Storm:
    """A server, its clients and its reference. `seed` decides what is asked, not what happens when."""

    def __init__(self, setup: Setup, server: RunningServer, examiner: Examiner, seed: int, num_threads: int) -> None:
        self.setup, self.server, self.examiner = setup, server, examiner
        self.seed, self.num_threads = seed, num_threads
        self.outcomes: SimpleQueue[Outcome] = SimpleQueue()
        self.client = Client(server, self.outcomes)

    def round(self, number: int) -> Report:
        """Play a deck, wait until the server is idle, and use both pools to the last slot."""
        adapters = [adapter.name for adapter in self.setup.adapters]
        episodes = Episodes(deck(self.client, self.setup.sizes, f"{self.seed} {number}", adapters))
        before, report = server_counters(self.server), Report()
        with Watch(self.server) as watch:
            self.play(episodes, report)
        report.rss_mib, report.deep_usage = watch.rss_mib, watch.deep_usage
        self.settle(report)
        if self.server.is_alive:
            changed = server_counters(self.server)
            changed.subtract(before)
            report.counters = Counter({name: count for name, count in changed.items() if count})
        return report

    def play(self, episodes: Episodes, report: Report) -> None:
        """Let all clients work until no episode is left, or one of them failed."""
        started = time.monotonic()
        threads = [threading.Thread(target=play_all, args=[episodes], daemon=True) for _ in range(self.num_threads)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            self.examine_next(report)
            if report.errors:
                episodes.clear()
        report.seconds = time.monotonic() - started
        self.examine_all(report)

    def calm(self) -> Report:
        """From an empty cache, one client asks a few ordinary things, each twice. The same before and after a storm."""
        report, started = Report(), time.monotonic()
        if not self.client.control("/flush_cache?timeout=300") or any(map(num_deep, speed_states(self.server))):
            report.errors.append("a flush fails or leaves something")
            return report
        for question in self.ordinary() + self.whole_pools():
            for _ in range(2):
                self.client.ask("calm", question)
        report.seconds = time.monotonic() - started
        self.examine_all(report)
        return report

    def settle(self, report: Report) -> None:
        """Nothing is left, and requests that need a whole pool are served."""
        if not self.is_idle_within(IDLE_SECONDS):
            report.errors.append("the server is not idle" if self.server.is_alive else "the server died")
            return
        for question in self.whole_pools():
            self.client.ask("whole pool", question)
        self.examine_all(report)

    def examine_all(self, report: Report) -> None:
        while not self.outcomes.empty():
            self.examine_next(report)

    def examine_next(self, report: Report) -> None:
        """Compare one outcome, if one comes soon."""
        with suppress(Empty):
            outcome = self.outcomes.get(timeout=0.2)
            report.add(outcome, self.examiner.examine(outcome) if outcome.output_ids else Verdict())

    def ordinary(self) -> list[Question]:
        """Short and long prompts that one client asks for."""
        return [Question((BOS_ID, *range(40, 40 + length)), 24) for length in (5, 20, 40, 85)]

    def whole_pools(self) -> list[Question]:
        """A prompt that takes the shallow band's pool but for a page or two, an answer that takes the deep band's."""
        some = (BOS_ID, *range(40, 90))
        speed, deep = self.examiner.model.config.speed_config, self.examiner.model.deep_tokens(some)[0]
        if speed.is_thinned:
            deep = ThinnedPolicy.of(speed).deep_tokens(len(some))
        return [
            Question((some * self.setup.total_tokens)[: self.setup.total_tokens - 40], 8),
            Question(some, self.setup.deep_tokens - deep.num_before(len(some)) - 4 - self.setup.num_ahead),
        ]

    def is_idle_within(self, seconds: float) -> bool:
        """Whether every rank comes to hold nothing deep but anchors."""
        deadline = time.monotonic() + seconds
        while self.server.is_alive and time.monotonic() < deadline:
            with suppress(requests.RequestException):
                if all(num_deep(state) == state["deep_anchor_tokens"] for state in speed_states(self.server)):
                    return True
            time.sleep(0.2)
        return False


def num_deep(state: dict[str, int]) -> int:
    return state["deep_tokens_used"]


def play_all(episodes: Episodes) -> None:
    """One client thread: take the next episode until there is none."""
    while True:
        try:
            kind, episode = episodes.popleft()
        except IndexError:
            return
        kind(episode)
