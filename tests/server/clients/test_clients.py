"""Other people's clients, on a SPEED server, in an environment of their own: `make test-clients`."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.server.conftest import REPORT_FLAGS
from tests.server.servers import RunningServer, running_server

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples" / "clients"
PYTHON = ROOT / ".venv-clients" / "bin" / "python"
"""Newer clients want a newer `openai` than SGLang has."""


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """The default model, which is built on first use."""
    with running_server("speed-llama", *REPORT_FLAGS, "--tool-call-parser", "hermes") as running:
        yield running


def printed(*command: str | Path) -> str:
    done = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.clients
@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("openai_responses", [r"answer: '.*Paris.*', \d+ prompt tokens", r"stream: '.+' in \d+ pieces"]),
        ("anthropic_messages", [r"answer: '.*Paris.*', \d+ prompt tokens", r"stream: '.*Paris.*' in \d+ pieces"]),
        ("langgraph_agent", [r"call: \{'city': 'Paris'\}", r"found: It rains in Paris\.", r"answer: '.+'"]),
        ("openai_agents", [r"tool_call_item: \{'city': 'Paris'\}", r"tool_call_output_item: It rains in Paris\."]),
        ("litellm_proxy", [r"answer: '.*Paris.*', \d+ prompt tokens"]),
    ],
)
def test_a_client_is_answered(server: RunningServer, name: str, lines: list[str]) -> None:
    said = printed(PYTHON, EXAMPLES / f"{name}.py", server.url)
    assert [line for line in lines if not re.search(f"^{line}", said.replace('"', "'"), re.MULTILINE)] == [], said


@pytest.mark.clients
def test_sglangs_own_load_generator_is_answered(server: RunningServer, tmp_path: Path) -> None:
    model = requests.get(f"{server.url}/model_info", timeout=60).json()["model_path"]
    sizes = ["--num-prompts", "6", "--random-input-len", "64", "--random-output-len", "8", "--random-range-ratio", "1"]
    asked = ("--base-url", server.url, "--model", model, "--dataset-name", "random-ids", *sizes)
    command = (sys.executable, "-m", "sglang.bench_serving", "--backend", "sglang")
    said = printed(*command, *asked, "--output-file", tmp_path / "requests.jsonl")
    assert re.search(r"Successful requests:\s+6\s*$", said, re.MULTILINE), said


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short_and_listed(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 40
    assert f"`clients/{path.name}`" in (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
