"""Agents by the OpenAI API: a growing context is computed once, and every step is the reference's."""

from __future__ import annotations

import json
import operator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

from openai import OpenAI
from sglang.srt.entrypoints.openai.protocol import Tool
from sglang.srt.function_call.utils import get_json_schema_constraint

from tests.server.agents.witness import Call, Witness
from tests.tiny_models import ids_of

RULES = "Think, then call a tool, then read what it found, until you know. Tools: add, multiply. " * 4
OPERATORS = {"add": operator.add, "multiply": operator.mul}
NUMBER = {"enum": [2, 3, 5, 7]}
PARAMETERS = {
    "type": "object",
    "properties": {"left": NUMBER, "right": NUMBER},
    "required": ["left", "right"],
    "additionalProperties": False,
}
TOOLS: list[Any] = [{"type": "function", "function": {"name": name, "parameters": PARAMETERS}} for name in OPERATORS]
CALLS = get_json_schema_constraint([Tool(**tool) for tool in TOOLS], "required", parallel_tool_calls=False)
NUM_STEPS = 3


def solve(witness: Witness, client: OpenAI, task: str, num_steps: int = NUM_STEPS) -> list[Any]:
    """A ReAct loop: a thought, a call that a schema makes valid, and its result, some times over."""
    messages: list[Any] = [{"role": "system", "content": RULES}, {"role": "user", "content": task}]
    for _ in range(num_steps):
        thought = witness.chat(client, messages, max_tokens=16, stop="#")
        messages += [{"role": "assistant", "content": thought}, {"role": "user", "content": "Call a tool."}]
        call = call_tool(witness, client, messages)
        found = OPERATORS[call["name"]](*call["parameters"].values())
        messages += [{"role": "assistant", "content": json.dumps(call)}, {"role": "tool", "content": f"Found {found}."}]
    return messages


def call_tool(witness: Witness, client: OpenAI, messages: list[Any]) -> Any:
    """The call as the server wrote it; without --tool-call-parser it comes as text."""
    options: dict[str, Any] = {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False}
    (call,) = json.loads(witness.chat(client, messages, schema=CALLS, max_tokens=100, **options))
    return call


def steps_of(witness: Witness, task: str) -> list[Call]:
    """The calls of the agent that works at a task, in order."""
    marker = ids_of(task)[1:]
    return [call for call in witness.calls if contains(call.prompt, marker)]


def contains(tokens: list[int], part: list[int]) -> bool:
    return any(tokens[start : start + len(part)] == part for start in range(len(tokens) - len(part) + 1))


def test_every_step_of_an_agent_is_exact_and_reuses_all_steps_before_it(witness: Witness, client: OpenAI) -> None:
    solve(witness, client, "How much is it?")
    witness.require_exact()
    witness.require_reuse()
    assert len(witness.calls) == 2 * NUM_STEPS
    assert witness.calls[0].cached == 0
    for before, call in pairwise(witness.calls):
        assert call.cached >= len(before.prompt)


def test_agents_side_by_side_share_their_rules_and_keep_their_own_steps(witness: Witness, client: OpenAI) -> None:
    tasks = [f"Task {letter}" for letter in "PQR"]
    with ThreadPoolExecutor(len(tasks)) as pool:
        list(pool.map(lambda task: solve(witness, client, task, num_steps=2), tasks))
    witness.require_exact()
    witness.require_reuse()
    for task in tasks:
        steps = steps_of(witness, task)
        assert len(steps) == 4
        assert all(call.cached >= len(before.prompt) for before, call in pairwise(steps))


def test_an_agent_that_goes_back_reuses_what_it_returns_to(witness: Witness, client: OpenAI) -> None:
    """Other attempts from the middle of a conversation, as a search over trees of thoughts makes them."""
    messages = solve(witness, client, "Search.", num_steps=2)
    for length in (8, 6, 4, 2):
        witness.chat(client, [*messages[:length], {"role": "user", "content": "Try otherwise."}], max_tokens=12)
    witness.require_exact()
    witness.require_reuse()
    for call, length in zip(witness.calls[-4:], (8, 6, 4, 2), strict=True):
        assert call.cached >= len(witness.templated(messages[:length])) - len("<assistant>")


def test_a_context_whose_start_changes_reuses_nothing_after_it(witness: Witness, client: OpenAI) -> None:
    """A clock at the start of the rules, as agents are warned of."""
    for hour in range(3):
        witness.chat(client, [{"role": "system", "content": f"{hour} o'clock. {RULES}"}], max_tokens=8)
    witness.require_exact()
    witness.require_reuse()
    before_the_clock = len(ids_of("<system>"))
    assert [call.cached for call in witness.calls] == [0, before_the_clock, before_the_clock]
