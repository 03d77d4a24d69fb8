"""Real SGLang servers for end-to-end tests, each in its own process group on a free loopback port.

Owns starting, waiting for, calling and stopping them. Asserts nothing about what they answer.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import requests

from sglang_speed.lab.common import local_server
from sglang_speed.lab.common.local_server import LocalServer, ServerFailed, start_server
from tests import forked

START_SECONDS = 900.0
"""A start in a new interpreter takes half a minute, and several times that on a busy machine."""
ANSWER_SECONDS = 600.0
LOG_TAIL_CHARS = 6000


class RunningServer(LocalServer):
    """One server process group and its log file."""

    @property
    def log(self) -> str:
        """All that the server has printed so far, from all of its processes."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def post(self, path: str, payload: Mapping[str, Any] | None = None, *, timeout: float = ANSWER_SECONDS) -> Any:
        """POST a JSON payload; the decoded answer, or `requests.HTTPError` with the server's words."""
        response = requests.post(self.url + path, json=payload or {}, timeout=timeout)
        if not response.ok:
            raise requests.HTTPError(f"{path} answered {response.status_code}: {response.text}", response=response)
        is_json = response.headers.get("content-type", "").startswith("application/json")
        return response.json() if is_json else response.text

    def generate(self, *, timeout: float = ANSWER_SECONDS, **payload: Any) -> Any:
        """POST to /generate, e.g. `generate(input_ids=[0, 5], sampling_params={"temperature": 0})`."""
        return self.post("/generate", payload, timeout=timeout)

    def flush_cache(self) -> None:
        """Empty the radix tree. The health check leaves token id 0 in it, so counts of cached tokens start here."""
        self.post("/flush_cache?timeout=300")

    def stop(self) -> None:
        """Kill every process of the server, as SGLang itself does at SIGTERM some seconds later: no exit code is 0."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def running_server(
    model_path: Path | str,
    *flags: str,
    env: Mapping[str, str] | None = None,
    start_seconds: float = START_SECONDS,
    in_new_interpreter: bool = False,
) -> Iterator[RunningServer]:
    """Serve `model_path` on 127.0.0.1 until the block ends; the server is ready and its cache empty when it starts.

    flags: further flags of sglang.launch_server. env: additions to this process's environment.
    in_new_interpreter: as users start it, instead of `tests.forked`.
    Raises ServerFailed where the server ends, or is not ready after `start_seconds`.
    """
    with tempfile.TemporaryDirectory(prefix="sglang-server-") as directory:
        start = None if in_new_interpreter else forked.start
        server = launch(model_path, flags, env or {}, Path(directory) / "server.log", start)
        try:
            wait_until_ready(server, time.monotonic() + start_seconds)
            yield server
        finally:
            server.stop()


@contextmanager
def forked_servers() -> Iterator[None]:
    """Let commands of this package, run in this process, fork the servers that they start."""
    at_sigterm = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_server, "start_python", forked.start)
        yield
    signal.signal(signal.SIGTERM, at_sigterm)


def launch(
    model_path: Path | str, flags: tuple[str, ...], env: Mapping[str, str], log_path: Path, start: Any
) -> RunningServer:
    offline = {"HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "1")}
    server = start_server(model_path, log_path, flags, {**offline, **env}, start)
    return RunningServer(server.url, server.process, server.log_path)


def wait_until_ready(server: RunningServer, deadline: float) -> None:
    while time.monotonic() < deadline:
        if not server.is_alive:
            raise ServerFailed(f"the server ended with {server.process.returncode}\n{server.log[-LOG_TAIL_CHARS:]}")
        if _is_healthy(server.url):
            server.flush_cache()
            return
        time.sleep(0.5)
    raise ServerFailed(f"the server was not ready in time\n{server.log[-LOG_TAIL_CHARS:]}")


def _is_healthy(url: str) -> bool:
    try:
        return requests.get(f"{url}/health", timeout=30).ok
    except requests.RequestException:
        return False
