"""The processes of a server: which they are, how to end one, and whether all of them are gone."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import requests

from tests.server.conftest import DEEP_TOKENS, SERVER_FLAGS
from tests.server.servers import RunningServer, running_server

# Not the strict checks of other tests: what is on by default must do.
ENV = {"SGLANG_SPEED_DEEP_TOKENS": str(DEEP_TOKENS)}
END_SECONDS = 300.0
"""For what takes a minute at most: the longest answer, or the end of all processes."""
LONG = {"input_ids": [0, 74, 107], "sampling_params": {"temperature": 0, "max_new_tokens": 2000}}


@dataclass
class Victim:
    """A server that a test may end, with the processes that it had when it was ready."""

    server: RunningServer
    processes: list[psutil.Process] = field(init=False)

    def __post_init__(self) -> None:
        main = psutil.Process(self.server.process.pid)
        self.processes = [main, *main.children(recursive=True)]

    def kill(self, name: str, how: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to one process: `scheduler`, `detokenizer`, or `server`, which started them."""
        named = [process for process in self.processes[1:] if name in "".join(process.cmdline()[:1])]
        [process] = named if name != "server" else self.processes[:1]
        process.send_signal(how)

    def require_gone(self) -> None:
        """All of its processes end in bounded time, and its port is free again."""
        self.server.process.wait(END_SECONDS)
        _, alive = psutil.wait_procs(self.processes[1:], timeout=END_SECONDS)
        assert not alive, [process.cmdline() for process in alive]
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", int(self.server.url.rpartition(":")[2])))


@contextmanager
def victim(model: Path, *flags: str, in_new_interpreter: bool = True, **env: str) -> Iterator[Victim]:
    """Forked processes inherit each other's pipes, so that a process may not see that another is gone."""
    env = {**ENV, **env}
    with running_server(model, *SERVER_FLAGS, *flags, env=env, in_new_interpreter=in_new_interpreter) as server:
        yield Victim(server)


class Client(threading.Thread):
    """A client in the middle of a long answer; it is done when the answer or the connection ends."""

    def __init__(self, server: RunningServer, *, stream: bool) -> None:
        super().__init__(daemon=True)
        self.url, self.stream = f"{server.url}/generate", stream
        self.num_events, self.last_event = 0, b""
        self.error: requests.RequestException | None = None
        self.start()

    def run(self) -> None:
        try:
            with requests.post(self.url, json={**LONG, "stream": self.stream}, stream=True, timeout=600) as response:
                for line in response.iter_lines():
                    if line.startswith(b"data: {"):
                        self.num_events, self.last_event = self.num_events + 1, line
        except requests.RequestException as error:
            self.error = error

    def wait_for_events(self, count: int) -> None:
        deadline = time.monotonic() + END_SECONDS
        while self.num_events < count:
            assert self.is_alive(), self.error
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.01)

    def require_done(self) -> None:
        self.join(END_SECONDS)
        assert not self.is_alive(), "a client hangs"
