"""Each example runs as its readers run it, on a tiny random model, and prints what it promises."""

from __future__ import annotations

import json
import operator
import re
import runpy
from itertools import pairwise
from pathlib import Path

import pytest

from tests import forked
from tests.server.servers import RunningServer
from tests.tiny_models import ids_of

EXAMPLES = Path(__file__).parents[3] / "examples"
CACHED = re.compile(r"^\[(\d+) of (\d+) prompt tokens cached\]$", re.MULTILINE)
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
MAX_LINES = 40


def run(name: str, *args: str) -> str:
    """What an example prints."""
    result = forked.run(EXAMPLES / name, *args)
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout


def require_growing_reuse(printed: str, num_turns: int) -> None:
    """Each prompt holds the one before it, and takes that and more from the cache."""
    turns = [(int(cached), int(prompt)) for cached, prompt in CACHED.findall(printed)]
    assert len(turns) == num_turns
    for (_, prompt_before), (cached, prompt) in pairwise(turns):
        assert prompt_before <= cached < prompt


def test_the_offline_engine_answers_every_prompt(tiny_speed: Path) -> None:
    assert 'if __name__ == "__main__":' in (EXAMPLES / "01_offline_engine.py").read_text(), "its processes import it"
    printed = run("01_offline_engine.py", "--model", str(tiny_speed))
    assert len(re.findall(r"^'.+' -> ['\"].+['\"]$", printed, re.MULTILINE)) == 3
    assert "prompt tokens passed 6 of 8 layers" in printed


def test_the_chat_reuses_earlier_turns(shared_server: RunningServer) -> None:
    shared_server.flush_cache()
    printed = run("02_openai_chat.py", shared_server.url)
    assert printed.count("user: ") == printed.count("assistant: ") == 3
    require_growing_reuse(printed, num_turns=3)
    assert CACHED.search(printed).group(1) == "0"  # type: ignore[union-attr]


def test_the_frontend_program_fills_in_every_variable(shared_server: RunningServer) -> None:
    printed = run("03_frontend_program.py", shared_server.url)
    found = dict(line.split(": ", 1) for line in printed.splitlines())
    assert list(found) == ["summary", "place", "topics", "legs"]
    assert found["place"] in ("'on land'", "'in water'")
    assert re.fullmatch("'[0-9]{1,2}'", found["legs"])


def test_the_agents_calls_are_valid_and_computed(shared_server: RunningServer) -> None:
    printed = run("04_agent.py", shared_server.url)
    calls = [json.loads(text) for text in re.findall(r"^assistant: (\{.+\})$", printed, re.MULTILINE)]
    results = re.findall(r"^user: (\d+) ([-+*]) (\d+) = (-?\d+)\. Tell", printed, re.MULTILINE)
    assert len(calls) == len(results) == 3
    for call, (left, sign, right, result) in zip(calls, results, strict=True):
        assert [call["left"], call["operator"], call["right"]] == [int(left), sign, int(right)]
        assert OPERATORS[sign](int(left), int(right)) == int(result)
    require_growing_reuse(printed, num_turns=6)


def test_many_inputs_and_their_judge_reuse_what_they_share(shared_server: RunningServer) -> None:
    shared_server.flush_cache()
    name = "05_few_shot_and_judge.py"
    printed, example = run(name, shared_server.url), runpy.run_path(str(EXAMPLES / name))
    assert len(re.findall(r"^[a-z]+:.+ Mark: [1-9]$", printed, re.MULTILINE)) == 6
    turns = [(int(cached), int(prompt)) for cached, prompt in CACHED.findall(printed)]
    assert len(turns) == 12
    for answered, marked in zip(turns[::2], turns[1::2], strict=True):
        assert answered[0] >= len(ids_of(example["EXAMPLES"]))
        assert marked[0] >= len(ids_of(example["RULES"]))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_short_and_listed(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < MAX_LINES
    assert f"`{path.name}`" in (EXAMPLES / "README.md").read_text(encoding="utf-8")
