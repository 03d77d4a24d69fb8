"""What the tests that go through HTTP share: one tiny SPEED checkpoint and one server on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.server.servers import RunningServer, running_server

if TYPE_CHECKING:
    from tests.server.e2e.reference_answers import Reference

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


@pytest.fixture(scope="session")
def tiny_speed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint whose prompts pass six of eight layers."""
    from tests.tiny_models import make_tiny_model  # torch and transformers: seconds that other tests need not spend

    return make_tiny_model(tmp_path_factory.mktemp("tiny-speed"), speed=SPEED)


@pytest.fixture(scope="session")
def reference(tiny_speed: Path) -> Reference:
    """What the shared server should answer."""
    from tests.server.e2e.reference_answers import Reference

    return Reference(tiny_speed)


@pytest.fixture(scope="session")
def shared_server(tiny_speed: Path) -> Iterator[RunningServer]:
    """A server that every test may ask, and none may stop; SGLang's own memory checks stop it on the first leak."""
    flags = (*SERVER_FLAGS, *REPORT_FLAGS, *GRAMMAR_FLAGS)
    with running_server(tiny_speed, *flags, env=SERVER_ENV, in_new_interpreter=True) as server:
        yield server
        assert server.is_alive, server.log[-6000:]
