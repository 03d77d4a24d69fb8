"""Where a local server listens, and what is said when it ends."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sglang_speed.lab.common import local_server
from sglang_speed.lab.common.local_server import LocalServer, ServerFailed, own_ports

RANGE_OF_OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")


def test_no_outgoing_connection_can_take_the_ports() -> None:
    port, flags = own_ports()
    nccl_port = int(flags[flags.index("--nccl-port") + 1])
    assert port != nccl_port
    assert {port, nccl_port} <= set(local_server.PORTS)
    first_outgoing = int(RANGE_OF_OUTGOING.read_text(encoding="utf-8").split()[0])
    assert max(local_server.PORTS) < first_outgoing


def test_a_port_in_use_is_not_given_out(monkeypatch: pytest.MonkeyPatch) -> None:
    (one, *_), (other, *_), (third, *_) = own_ports(), own_ports(), own_ports()
    with socket.socket() as held:
        held.bind(("127.0.0.1", one))
        monkeypatch.setattr(local_server, "PORTS", [one, other, third])
        assert set(map(str, (other, third))) <= set(own_ports()[1])


def test_a_server_that_ends_is_said_to_with_the_end_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text("first line\nout of memory\n", encoding="utf-8")
    process = subprocess.Popen([sys.executable, "-c", ""], start_new_session=True)
    process.wait()
    server = LocalServer("http://127.0.0.1:1", process, log)
    with pytest.raises(ServerFailed, match=r"the server ended; the end of .*server.log:\nfirst line\nout of memory"):
        server.wait()
    server.stop()
