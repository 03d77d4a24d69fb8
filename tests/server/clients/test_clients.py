"""Other people's clients, on a SPEED server, in an environment of their own: `make test-clients`."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.conftest import GRAMMAR_FLAGS, REPORT_FLAGS, SERVER_FLAGS
from tests.server.servers import RunningServer, running_server

pytestmark = pytest.mark.clients

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples" / "clients"
PYTHON = ROOT / ".venv-clients" / "bin" / "python"
"""Newer clients want a newer `openai` than SGLang has."""
CITY = r"'?(Paris|Rome|Oslo)'?"


@pytest.fixture(scope="module")
def server(tiny_speed: Path) -> Iterator[RunningServer]:
    flags = (*SERVER_FLAGS, *REPORT_FLAGS, *GRAMMAR_FLAGS, "--tool-call-parser", "hermes")
    with running_server(tiny_speed, *flags) as running:
        yield running


def printed(*command: str | Path) -> str:
    done = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("openai_responses", [r"answer: '.+', \d+ prompt tokens", r"stream: '.+' in \d+ pieces"]),
        ("anthropic_messages", [r"answer: '.+', \d+ prompt tokens", r"stream: '.+' in \d+ pieces"]),
        ("langgraph_agent", [rf"call: \{{'city': {CITY}\}}", rf"found: It rains in {CITY}\.", r"answer: '.+'"]),
        ("openai_agents", [r"tool_call_item: \{.*city.*\}", rf"tool_call_output_item: It rains in {CITY}\."]),
        ("litellm_proxy", [r"answer: '.+', \d+ prompt tokens"]),
    ],
)
def test_a_client_is_answered(server: RunningServer, name: str, lines: list[str]) -> None:
    said = printed(PYTHON, EXAMPLES / f"{name}.py", server.url)
    assert [line for line in lines if not re.search(f"^{line}", said.replace('"', "'"), re.MULTILINE)] == [], said


def test_sglangs_own_load_generator_is_answered(server: RunningServer, tiny_speed: Path) -> None:
    lengths = ("--random-input-len", "64", "--random-output-len", "8", "--random-range-ratio", "1")
    sizes = ("--dataset-name", "random-ids", "--num-prompts", "6", *lengths)
    model = ("--base-url", server.url, "--model", tiny_speed, "--tokenizer", tiny_speed)
    said = printed(sys.executable, "-m", "sglang.bench_serving", "--backend", "sglang", *model, *sizes)
    assert re.search(r"Successful requests:\s+6$", said, re.MULTILINE), said


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short_and_listed(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 40
    assert f"`clients/{path.name}`" in (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
