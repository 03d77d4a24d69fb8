"""An SGLang server on a free loopback port. Owns its processes from start to end."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

PORTS = range(20000, 32000)
START_SECONDS = 900
POLL_SECONDS = 0.5
STOP_SECONDS = 20
LOG_LINES = 20


class ServerFailed(RuntimeError):
    """The server ended or was not ready in time; the text has the end of its log."""


@dataclass
class LocalServer:
    """A process group and its log. `url` is ready after `wait`."""

    url: str
    process: subprocess.Popen[bytes]
    log_path: Path

    def wait(self) -> None:
        """Wait until the server answers; ServerFailed if it ends or takes longer than START_SECONDS."""
        import requests

        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            self.require_alive()
            with suppress(requests.ConnectionError, requests.Timeout):
                if requests.get(f"{self.url}/health", timeout=30).ok:
                    return
            time.sleep(POLL_SECONDS)
        raise ServerFailed(f"the server was not ready after {START_SECONDS} s; its log is {self.log_path}")

    def require_alive(self) -> None:
        if self.process.poll() is not None:
            tail = "\n".join(self.log_path.read_text(errors="replace").splitlines()[-LOG_LINES:])
            raise ServerFailed(f"the server ended; the end of {self.log_path}:\n{tail}")

    def ask_to_stop(self) -> None:
        """Send SIGTERM without waiting, so that several servers end at the same time."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)

    def stop(self) -> None:
        """End the process group: SIGTERM, then SIGKILL for the rest."""
        for sent in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, sent)
                self.process.wait(STOP_SECONDS)
            except ProcessLookupError:
                return
            except subprocess.TimeoutExpired:
                continue


def exit_on_sigterm() -> None:
    """Make SIGTERM raise SystemExit, so that the servers of this process are stopped."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


_REPLICAS = ("--dp-size", "--data-parallel-size", "--dp")


def start_server(
    model: str | Path,
    log_path: Path,
    flags: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    start: Callable[[Sequence[str], Path, Mapping[str, str]], subprocess.Popen[bytes]] | None = None,
) -> LocalServer:
    """Start a server without waiting for it.

    environment: added to this process's. start: in place of `start_python`.
    """
    port, flags_of_ports = own_ports()
    if any(flag.split("=")[0] in _REPLICAS for flag in flags):
        flags_of_ports = flags_of_ports[: flags_of_ports.index("--nccl-port")]  # each of them needs one of its own
    command = ["-m", "sglang.launch_server", "--model-path", str(model), *flags, *flags_of_ports]
    process = (start or start_python)(command, log_path, environment or {})
    return LocalServer(f"http://127.0.0.1:{port}", process, log_path)


def start_python(command: Sequence[str], output: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start `python COMMAND` in a process group of its own. output: file of what it prints."""
    with output.open("wb") as log:
        return subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **environment},
        )


def own_ports() -> tuple[int, list[str]]:
    """A free port for a server, and the flags for it and for the port of its ranks.

    A server binds them only after half a minute. They are below the range of ephemeral ports, so that no outgoing
    connection takes them meanwhile.
    """
    port, nccl_port = islice(filter(_is_free, random.SystemRandom().sample(PORTS, len(PORTS))), 2)
    return port, ["--host", "127.0.0.1", "--port", str(port), "--nccl-port", str(nccl_port)]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
