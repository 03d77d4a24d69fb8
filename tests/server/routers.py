"""sglang-router in front of servers, on free loopback ports."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from sglang_speed.lab.common.local_server import own_ports
from tests import forked
from tests.server.servers import ServerFailed

READY_SECONDS = 300.0
HEALTH_SECONDS = 1
"""Between two looks at a worker; by default the router takes 60."""


@dataclass(frozen=True)
class Router:
    """A router that is ready. metrics_url: where Prometheus asks it."""

    url: str
    metrics_url: str

    def workers(self) -> dict[str, bool]:
        """Whether the router takes each of its workers to be healthy, by their URLs."""
        listed: Any = requests.get(f"{self.url}/workers", timeout=60).json()
        return {worker["url"]: worker["is_healthy"] for worker in listed["workers"]}


@contextmanager
def running_router(workers: Sequence[str], *flags: str) -> Iterator[Router]:
    """A router that knows all `workers`, their URLs. Raises ServerFailed where it is not ready in time."""
    port, metrics_port = own_ports()[0], own_ports()[0]
    command = ["-m", "sglang_router.launch_router", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(metrics_port)]
    command += ["--health-check-interval-secs", str(HEALTH_SECONDS), "--worker-startup-check-interval", "1"]
    router = Router(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{metrics_port}/metrics")
    with tempfile.TemporaryDirectory(prefix="sglang-router-") as directory:
        log = Path(directory) / "router.log"
        process = forked.start([*command, *flags, "--worker-urls", *workers], log, {})
        try:
            _wait_until_ready(router, workers, log)
            yield router
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_until_ready(router: Router, workers: Sequence[str], log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        with suppress(requests.ConnectionError):
            if router.workers() == dict.fromkeys(workers, True):
                return
        time.sleep(0.2)
    raise ServerFailed(f"the router was not ready in time\n{log.read_text(encoding='utf-8')[-6000:]}")
