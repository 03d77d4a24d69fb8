"""The shared server with an empty cache, the reference of its checkpoint, and a witness of what is asked."""

from __future__ import annotations

import pytest
import sglang
from openai import OpenAI
from sglang.lang.backend import runtime_endpoint

from tests.one_thread import one_thread  # noqa: F401
from tests.server.agents.witness import Witness
from tests.server.e2e.reference_answers import Reference
from tests.server.servers import RunningServer


@pytest.fixture
def witness(shared_server: RunningServer, reference: Reference, monkeypatch: pytest.MonkeyPatch) -> Witness:
    """Sees what the frontend language sends; a server that is up and has nothing cached answers."""
    assert shared_server.is_alive, f"an earlier request ended the server:\n{shared_server.log[-6000:]}"
    shared_server.flush_cache()
    witness = Witness(reference)
    monkeypatch.setattr(runtime_endpoint, "http_request", witness.watch(runtime_endpoint.http_request))
    return witness


@pytest.fixture
def backend(witness: Witness, shared_server: RunningServer) -> sglang.RuntimeEndpoint:
    """Where frontend programs run."""
    return sglang.RuntimeEndpoint(shared_server.url, chat_template_name="chatml")


@pytest.fixture
def client(shared_server: RunningServer) -> OpenAI:
    return OpenAI(base_url=f"{shared_server.url}/v1", api_key="none", timeout=600, max_retries=0)
