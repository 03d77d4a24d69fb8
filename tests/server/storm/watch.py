"""What a server uses over time: resident memory of its processes, deep tokens."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from statistics import median
from types import TracebackType
from typing import Any

import psutil
import requests

from tests.server.servers import RunningServer

MIB = 2**20
SECONDS_BETWEEN = 1.0
TOTALS = re.compile(r"^sglang:(\w*(?:evicted|retracted|aborted)\w*_total)\{[^}]*\} (\S+)$", re.MULTILINE)


def resident_mib(pid: int) -> float:
    """RSS of a process and all its descendants; pages that they share count for each."""
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0
    return sum(_rss(process) for process in processes) / MIB


def _rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


class Watch:
    """Samples a server's use every second while the block runs, in a thread.

    rss_mib: memory of the process tree. deep_usage: share of the deep band's slots that is in use, of all ranks.
    """

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        self.rss_mib: list[float] = []
        self.deep_usage: list[float] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(SECONDS_BETWEEN) and self.server.is_alive:
            self.rss_mib.append(resident_mib(self.server.process.pid))
            with suppress(requests.RequestException):
                states = speed_states(self.server)
                used, capacity = (
                    sum(state[name] for state in states) for name in ("deep_tokens_used", "deep_tokens_capacity")
                )
                self.deep_usage.append(used / capacity)


def speed_states(server: RunningServer) -> list[dict[str, Any]]:
    """The `speed` object of /server_info of each data parallel rank."""
    info = requests.get(f"{server.url}/server_info", timeout=60).json()
    return [state["speed"] for state in info["internal_states"]]


def server_counters(server: RunningServer) -> Counter[str]:
    """Every number of the `speed` objects, and SGLang's totals of what pressure does; ranks are added up."""
    counters: Counter[str] = Counter()
    for state in speed_states(server):
        counters.update({f"speed.{name}": value for name, value in state.items() if isinstance(value, int)})
    metrics = requests.get(f"{server.url}/metrics", timeout=60).text
    for name, value in TOTALS.findall(metrics):
        counters[name] += int(float(value))
    return counters


def late_growth(samples: Sequence[float]) -> float:
    """MiB by which the median of the last quarter exceeds that of the second quarter.

    The first quarter is left out: torch's and Python's allocators grow until the largest batch has been seen.
    """
    quarter = len(samples) // 4
    if not quarter:
        return 0.0
    return median(samples[-quarter:]) - median(samples[quarter : 2 * quarter])
