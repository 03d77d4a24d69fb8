"""More than one scheduler process: data parallel and tensor parallel, plain."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.server.conftest import DEEP_TOKENS, REPORT_FLAGS, SERVER_ENV, SERVER_FLAGS, SPEED
from tests.server.e2e.asking import Asker, long_prompt
from tests.server.e2e.reference_answers import Reference
from tests.server.servers import running_server
from tests.tiny_models import make_tiny_model

pytestmark = pytest.mark.slow  # twice the processes, a minute to start on two cores

PROMPTS = [long_prompt(30 + 25 * index, start=f"{index} ") for index in range(6)]


def require_exact_batches(asker: Asker) -> None:
    """Cold and warm; with one cache per rank a second answer may be cold too."""
    for _ in range(3):
        for prompt, answer in zip(PROMPTS, asker.ask(PROMPTS), strict=True):
            asker.reference.require(prompt, answer["output_ids"])


def test_two_data_parallel_ranks_are_exact(tiny_speed: Path, reference: Reference) -> None:
    flags = (*SERVER_FLAGS, *REPORT_FLAGS, "--dp-size", "2")
    with running_server(tiny_speed, *flags, env=SERVER_ENV, in_new_interpreter=True) as server:
        asker = Asker(server, reference)
        require_exact_batches(asker)
        assert asker.is_idle()
        replicas = {state["dp_rank"]: state for state in asker.speed_states()}
        assert replicas.keys() == {0, 1}
        assert all(state["shallow_prompt_tokens"] for state in replicas.values()), "both were asked"
        capacities = re.findall(
            r'^sglang_speed:deep_tokens_capacity\{.*dp_rank="(\d)".*\} (\S+)$',
            requests.get(f"{server.url}/metrics", timeout=60).text,
            re.MULTILINE,
        )
        assert sorted(capacities) == [("0", f"{DEEP_TOKENS}.0"), ("1", f"{DEEP_TOKENS}.0")]
        assert server.log.count("sglang_speed: prompt tokens pass 6 of 8 layers") == 2


@pytest.mark.parametrize(
    ("policy", "num_bytes"),
    [
        ({"policy": "speed"}, 1536),
        ({"policy": "pop"}, 2048),
        ({"policy": "fastkv"}, 1792),
        ({"policy": "fastkv", "select_ratio": 0.6, "kv_keep": 0.3}, 1792),
    ],
    ids=str,
)
def test_two_tensor_parallel_ranks_are_exact(tmp_path: Path, policy: dict[str, Any], num_bytes: int) -> None:
    """The bytes of /server_info are those of all ranks together, so they are those of one rank alone."""
    model = make_tiny_model(tmp_path, speed={**SPEED, **policy})
    with running_server(model, *SERVER_FLAGS, "--tp-size", "2", env=SERVER_ENV, in_new_interpreter=True) as server:
        asker = Asker(server, Reference(model))
        require_exact_batches(asker)
        assert asker.is_idle()
        state = asker.speed_state()
    assert (state["kv_bytes_per_prompt_token"], state["kv_bytes_per_prompt_token_full_depth"]) == (num_bytes, 2048)
