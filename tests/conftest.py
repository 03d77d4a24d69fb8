"""What the tests that go through HTTP share: one tiny SPEED checkpoint and one server on it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from tests.servers import RunningServer, running_server
from tests.tiers import LONG, tier_of

if TYPE_CHECKING:
    from xdist.scheduler import Scheduling

    from tests.e2e.reference_answers import Reference

SPEED = {"prefill_layers": 6, "anchor_tokens": 1, "tail_tokens": 3}
DEEP_TOKENS = 1024
STRICT_MEMORY_CHECKS = {
    "SGLANG_ENABLE_STRICT_MEM_CHECK_DURING_IDLE": "1",
    "SGLANG_ENABLE_STRICT_MEM_CHECK_DURING_BUSY": "1",
}
SERVER_ENV = {**STRICT_MEMORY_CHECKS, "SGLANG_SPEED_DEEP_TOKENS": str(DEEP_TOKENS)}
MAX_TOTAL_TOKENS = 8192
SERVER_FLAGS = ("--dtype", "float32", "--chunked-prefill-size", "64", "--max-total-tokens", str(MAX_TOTAL_TOKENS))
REPORT_FLAGS = ("--enable-metrics", "--enable-cache-report")
# a random model could fill a whole answer with the white space that JSON allows
GRAMMAR_FLAGS = ("--constrained-json-disable-any-whitespace",)

# an example that takes longer than 200 ms says that the machine is busy, not that a claim is wrong
settings.register_profile("any machine", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", settings.get_profile("any machine"), max_examples=10)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "any machine"))


@pytest.fixture(scope="session")
def tiny_speed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint whose prompts pass six of eight layers."""
    from tests.tiny_models import make_tiny_llama  # torch and transformers: seconds that other tests need not spend

    return make_tiny_llama(tmp_path_factory.mktemp("tiny-speed"), speed=SPEED)


@pytest.fixture(scope="session")
def reference(tiny_speed: Path) -> Reference:
    """What the shared server should answer."""
    from tests.e2e.reference_answers import Reference

    return Reference(tiny_speed)


@pytest.fixture(scope="session")
def shared_server(tiny_speed: Path) -> Iterator[RunningServer]:
    """A server that every test may ask, and none may stop; SGLang's own memory checks stop it on the first leak."""
    with running_server(tiny_speed, *SERVER_FLAGS, *REPORT_FLAGS, *GRAMMAR_FLAGS, env=SERVER_ENV) as server:
        yield server
        assert server.is_alive, server.log[-6000:]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    """Workers get groups of tests in the order in which they were collected."""
    from tests.workers import OneWorkerPerGroup

    config.option.loadscopereorder = False
    return OneWorkerPerGroup(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(tier_of(item.path, set(getattr(item, "fixturenames", ()))))
        if item.nodeid.startswith(LONG):
            item.add_marker("long")
    if hasattr(config, "workerinput"):
        from tests.workers import turn_of

        items.sort(key=lambda item: turn_of(item.nodeid))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How much the random histories of tests/parity went through.

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
