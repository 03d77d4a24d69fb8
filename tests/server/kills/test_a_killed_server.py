"""A server that loses a process ends: its clients notice, nothing is left, and the next one serves on its port.

Each start but the first is that of a server whose predecessor on the same port was killed.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from sglang_speed.lab.common import local_server
from tests.server.conftest import DEEP_TOKENS
from tests.server.kills.faults import LOSES_A_SLOT, write_plugin
from tests.server.kills.processes import Client, Victim, victim

PROMPT = {"input_ids": [0, 74, 107], "sampling_params": {"temperature": 0, "max_new_tokens": 8}}


@pytest.fixture(scope="module", autouse=True)
def _one_port() -> Iterator[None]:
    ports = local_server.own_ports()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_server, "own_ports", lambda: ports)
        yield


def kill_in_mid_request(doomed: Victim, name: str, how: signal.Signals) -> None:
    clients = [Client(doomed.server, stream=True), Client(doomed.server, stream=False)]
    clients[0].wait_for_events(10)
    doomed.kill(name, how)
    for client in clients:
        client.require_done()
    doomed.require_gone()


def test_a_killed_scheduler_ends_the_server_and_its_clients(tiny_speed: Path) -> None:
    """Forked, which starts in seconds; the slow ones start new interpreters."""
    with victim(tiny_speed, in_new_interpreter=False) as doomed:
        kill_in_mid_request(doomed, "scheduler", signal.SIGKILL)


def test_a_lost_slot_stops_the_server_with_both_sides_of_the_sum(tiny_speed: Path, tmp_path: Path) -> None:
    """The fault is armed after some requests went well: what stops the server is the sum, not the plugin."""
    env = write_plugin(tmp_path / "fault", LOSES_A_SLOT)
    with victim(tiny_speed, in_new_interpreter=False, **env) as doomed:
        before = [doomed.server.generate(**PROMPT)["output_ids"] for _ in range(2)]
        assert before[0] == before[1]
        Path(env["FAULT_ARMED"]).touch()
        Client(doomed.server, stream=True).require_done()
        doomed.require_gone()
        both_sides = rf"free=\d+ \+ owned=\d+ by rows \+ shared=\d+ by anchors != capacity {DEEP_TOKENS}"
        assert re.search(f"IntegrityError: .*{both_sides}", doomed.server.log), doomed.server.log[-4000:]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("scheduler", signal.SIGSEGV),
        ("scheduler", signal.SIGABRT),
        ("detokenizer", signal.SIGKILL),
        ("server", signal.SIGKILL),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_any_killed_process_ends_the_server_and_its_clients(tiny_speed: Path, name: str, how: signal.Signals) -> None:
    with victim(tiny_speed) as doomed:
        kill_in_mid_request(doomed, name, how)


@pytest.mark.slow
def test_a_server_that_is_told_to_end_answers_what_runs_and_ends(tiny_speed: Path) -> None:
    with victim(tiny_speed) as doomed:
        client = Client(doomed.server, stream=True)
        client.wait_for_events(10)
        doomed.kill("server", signal.SIGTERM)
        client.require_done()
        assert client.error is None
        assert b'"finish_reason":{"type":"length"' in client.last_event
        doomed.require_gone()
