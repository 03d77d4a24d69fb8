"""How tests are collected: markers by folder, groups for workers, and Hypothesis's settings."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from tests.tiers import markers_of, misplacement

if TYPE_CHECKING:
    from xdist.scheduler import Scheduling

# an example that takes longer than 200 ms says that the machine is busy, not that a claim is wrong
settings.register_profile("any machine", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", settings.get_profile("any machine"), max_examples=10)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "any machine"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    """Workers get groups of tests in the order in which they were collected."""
    from tests.workers import OneWorkerPerGroup

    config.option.loadscopereorder = False
    return OneWorkerPerGroup(config, log)


def pytest_collect_file(file_path: Path) -> None:
    """Collects nothing; an error where a test file lies in a wrong folder."""
    if file_path.match("test_*.py") and (wrong := misplacement(file_path)):
        raise pytest.Collector.CollectError(wrong)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for marker in markers_of(item.path):
            item.add_marker(marker)
    if hasattr(config, "workerinput"):
        from tests.workers import turn_of

        items.sort(key=lambda item: turn_of(item.nodeid))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How much the random histories of tests/inprocess/parity went through.

    It is here because the process that reports for workers reads no other conftest.
    """
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    seen: Counter[str] = Counter()
    for report in reports:
        for name, value in getattr(report, "user_properties", []):
            if name == "scheduler histories":
                seen.update(value)
            elif name == "seed":
                terminalreporter.write_line(f"{report.nodeid}: --hypothesis-seed={value}")
    if seen:
        counts = ", ".join(f"{number} {name}" for name, number in seen.items())
        terminalreporter.write_line(f"scheduler histories: {counts}")
