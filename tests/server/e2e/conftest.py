"""The shared server and the reference of its checkpoint."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.one_thread import one_thread  # noqa: F401
from tests.server.e2e.asking import Asker
from tests.server.e2e.reference_answers import Reference
from tests.server.servers import RunningServer


@pytest.fixture
def asker(shared_server: RunningServer, reference: Reference) -> Iterator[Asker]:
    """The server with an empty cache. Afterwards it must still be up, and an ordinary request exact."""
    assert shared_server.is_alive, f"an earlier request ended the server:\n{shared_server.log[-6000:]}"
    shared_server.flush_cache()
    asker = Asker(shared_server, reference)
    yield asker
    asker.require_exact([0, 74, 107], 4)
