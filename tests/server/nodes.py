"""One model on two nodes: two servers on loopback, of which the first answers and the second has a rank of its own."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from sglang_speed.lab.common.local_server import own_ports
from tests import forked
from tests.server.servers import START_SECONDS, RunningServer, launch, wait_until_ready

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""Nodes that share a machine share its cores."""


@contextmanager
def started_nodes(
    models: Sequence[Path],
    *flags: str,
    env: Mapping[str, str],
    apart: Sequence[Mapping[str, str]] = ({}, {}),
    flags_apart: Sequence[Sequence[str]] = ((), ()),
    in_new_interpreter: bool = False,
) -> Iterator[list[RunningServer]]:
    """Two nodes that begin to start. models: of each node. apart, flags_apart: what one node has and the other not."""
    address = f"127.0.0.1:{own_ports()[0]}"
    shared = (*flags, "--tp-size", "2", "--nnodes", "2", "--dist-init-addr", address)
    start = None if in_new_interpreter else forked.start
    with tempfile.TemporaryDirectory(prefix="sglang-nodes-") as directory:
        nodes: list[RunningServer] = []
        try:
            for rank, model in enumerate(models):
                own = (*shared, "--node-rank", str(rank), *flags_apart[rank])
                log = Path(directory) / f"node{rank}.log"
                nodes.append(launch(model, own, {**env, **ONE_THREAD, **apart[rank]}, log, start))
            yield nodes
        finally:
            for node in nodes:
                node.stop()


@contextmanager
def running_nodes(model: Path, *flags: str, env: Mapping[str, str]) -> Iterator[list[RunningServer]]:
    """Two nodes, ready when the block starts."""
    with started_nodes([model, model], *flags, env=env) as nodes:
        wait_until_ready(nodes[0], time.monotonic() + START_SECONDS)
        yield nodes
