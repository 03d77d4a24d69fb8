"""One model on two nodes: exact, what nodes must have in common, and what happens when one of them is gone."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from tests.server.conftest import MAX_TOTAL_TOKENS, SERVER_ENV, SERVER_FLAGS, SPEED
from tests.server.e2e.asking import Asker
from tests.server.e2e.reference_answers import Reference
from tests.server.e2e.test_several_ranks import require_exact_batches
from tests.server.kills.processes import END_SECONDS, Client
from tests.server.nodes import running_nodes, started_nodes
from tests.server.servers import RunningServer
from tests.tiny_models import make_tiny_model

REFUSED = "sglang_speed: ranks that share a model must serve the same, but "


@pytest.mark.slow
@pytest.mark.parametrize(
    "policy",
    [
        {"policy": "speed"},
        {"policy": "pop"},
        {"policy": "fastkv"},
        {"policy": "fastkv", "select_ratio": 0.6, "kv_keep": 0.3},
        {"policy": "speed", "deep_message_tokens": 20, "message_delimiters": [[62]]},
    ],
    ids=str,
)
def test_two_nodes_are_exact(tmp_path: Path, policy: dict[str, Any]) -> None:
    model = make_tiny_model(tmp_path, speed={**SPEED, **policy})
    with running_nodes(model, *SERVER_FLAGS, env=SERVER_ENV) as nodes:
        asker = Asker(nodes[0], Reference(model))
        require_exact_batches(asker)
        assert asker.is_idle()
        assert requests.get(f"{nodes[1].url}/health", timeout=60).ok, "of the second node, which answers nothing else"


def require_both_end(nodes: Sequence[RunningServer], *messages: str) -> None:
    for node in nodes:
        node.process.wait(END_SECONDS)
        assert node.process.returncode == 1, node.log[-6000:]
        for message in messages:
            assert message in node.log, node.log[-6000:]


def test_nodes_with_another_deep_band_each_end_with_both_numbers(tiny_speed: Path) -> None:
    apart = [{"SGLANG_SPEED_DEEP_TOKENS": "1024"}, {"SGLANG_SPEED_DEEP_TOKENS": "1000"}]
    with started_nodes([tiny_speed] * 2, *SERVER_FLAGS, env=SERVER_ENV, apart=apart) as nodes:
        differs = "rank 1 (node 1) has SGLANG_SPEED_DEEP_TOKENS: 1000, rank 0 (node 0): 1024"
        require_both_end(nodes, f"{REFUSED}{differs}. Start every node with the same")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "differs"),
    [
        (("--max-total-tokens", "4096"), f"--max-total-tokens: 4096, rank 0 (node 0): {MAX_TOTAL_TOKENS}"),
        (("--chunked-prefill-size", "32"), "--chunked-prefill-size: 32, rank 0 (node 0): 64"),
        (("--schedule-policy", "lpm"), "--schedule-policy: lpm, rank 0 (node 0): fcfs"),
    ],
    ids=str,
)
def test_nodes_with_other_flags_end(tiny_speed: Path, flags: Sequence[str], differs: str) -> None:
    """SGLang alone would serve them, each rank with a schedule of its own."""
    with started_nodes([tiny_speed] * 2, *SERVER_FLAGS, env=SERVER_ENV, flags_apart=[(), flags]) as nodes:
        require_both_end(nodes, REFUSED, differs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("other", "differs"),
    [
        ({"speed": {**SPEED, "tail_tokens": 4}}, "`speed` of config.json: {'prefill_layers': 6"),
        ({"speed": SPEED, "seed": 1}, "rank 1 (node 1) has weights: digest "),
    ],
    ids=str,
)
def test_nodes_with_other_checkpoints_end(
    tiny_speed: Path, tmp_path: Path, other: Mapping[str, Any], differs: str
) -> None:
    models = [tiny_speed, make_tiny_model(tmp_path, **other)]
    with started_nodes(models, *SERVER_FLAGS, env=SERVER_ENV) as nodes:
        require_both_end(nodes, REFUSED, differs)


@pytest.mark.slow
def test_a_node_that_serves_full_depth_ends_the_start(tiny_speed: Path, tmp_path: Path) -> None:
    """The message is that of the node with the SPEED model; the other one notices that its peer is gone."""
    with started_nodes([tiny_speed, make_tiny_model(tmp_path)], *SERVER_FLAGS, env=SERVER_ENV) as nodes:
        require_both_end(nodes[:1], f"{REFUSED}rank 1 (node 1) has a SPEED model: no, rank 0 (node 0): yes")
        nodes[1].process.wait(END_SECONDS)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
@pytest.mark.parametrize("is_busy", [True, False], ids=["busy", "idle"])
def test_a_node_that_dies_ends_the_other(tiny_speed: Path, killed: int, is_busy: bool) -> None:
    with running_nodes(tiny_speed, *SERVER_FLAGS, env=SERVER_ENV) as nodes:
        every = [psutil.Process(node.process.pid) for node in nodes]
        every += [child for process in every for child in process.children(recursive=True)]
        client = Client(nodes[0], stream=True)
        if is_busy:
            client.wait_for_events(10)
        else:
            client.require_done()
        os.killpg(nodes[killed].process.pid, signal.SIGKILL)
        client.require_done()
        _, alive = psutil.wait_procs(every, timeout=END_SECONDS)
        assert not alive, nodes[1 - killed].log[-6000:]
