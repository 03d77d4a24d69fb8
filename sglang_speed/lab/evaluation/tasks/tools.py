"""Tool calling: tools as JSON schemas in the system prompt, a request for one of them, a call as JSON.

The output is not constrained. An invented tool is a name that was not offered.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import jsonschema

from sglang_speed.lab.evaluation.tasks.base import Item, Task, assistant, system, user
from sglang_speed.lab.evaluation.tasks.catalogue import CATALOGUE, Tool

NUM_OFFERED = 4
NUM_EXAMPLES = 3
INSTRUCTIONS = (
    "You can call these tools:\n{tools}\n\nAnswer every request with one call as a JSON object and nothing else: "
    '{{"name": the name of the tool, "arguments": an object with its arguments}}'
)


class Tools(Task):
    name = "tools"
    metrics = ("valid", "right_tool", "right_arguments", "invented")
    faults = ("invented",)
    max_new_tokens = 64
    drawn_together = 8

    def item(self, seed: int, index: int) -> Item:
        """Neighbours share tools and examples, like users of one agent."""
        offered, opening = toolbox(self.random(seed, index // self.drawn_together))
        random = self.random(seed, index, NUM_OFFERED)
        tool = offered[index % NUM_OFFERED]
        request, arguments = tool.draw(random)
        wanted = {"name": tool.name, "arguments": arguments, "declared": [each.declaration for each in offered]}
        is_shown = tool in offered[:NUM_EXAMPLES]
        return Item(opening, (request,), wanted, {"example of the tool": "yes" if is_shown else "no"})

    def grade(self, item: Item, answers: Sequence[str]) -> dict[str, float]:
        call = parse_call(answers[-1])
        schemas = {declared["name"]: declared["parameters"] for declared in item.wanted["declared"]}
        is_valid = call is not None and call["name"] in schemas and fits(call["arguments"], schemas[call["name"]])
        is_right_tool = call is not None and call["name"] == item.wanted["name"]
        has_right_arguments = is_right_tool and call is not None and same(call["arguments"], item.wanted["arguments"])
        named = named_tool(answers[-1])
        return {
            "valid": float(is_valid),
            "right_tool": float(is_right_tool),
            "right_arguments": float(has_right_arguments),
            "invented": float(named is not None and named not in schemas),
        }


def toolbox(random: Random) -> tuple[list[Tool], tuple[dict[str, str], ...]]:
    """Some tools, their system prompt, and example calls of the first ones."""
    offered = random.sample(CATALOGUE, NUM_OFFERED)
    declared = "\n".join(json.dumps(tool.declaration) for tool in random.sample(offered, NUM_OFFERED))
    examples = [message for tool in offered[:NUM_EXAMPLES] for message in exchange(tool, random)]
    return offered, (system(INSTRUCTIONS.format(tools=declared)), *examples)


def exchange(tool: Tool, random: Random) -> tuple[dict[str, str], dict[str, str]]:
    """An example of a request and its answer."""
    request, arguments = tool.draw(random)
    return user(request), assistant(json.dumps({"name": tool.name, "arguments": arguments}))


def parse_call(answer: str) -> dict[str, Any] | None:
    """Parse a call: one JSON object with name and arguments, possibly in a code fence or <tool_call> tags. None for
    anything else."""
    inner = re.fullmatch(r"(?:```(?:json)?|<tool_call>)\s*(.*?)\s*(?:```|</tool_call>)", answer.strip(), re.DOTALL)
    try:
        call = json.loads(inner[1] if inner else answer)
    except ValueError:
        return None
    if not isinstance(call, dict) or set(call) != {"name", "arguments"} or not isinstance(call["name"], str):
        return None
    return call


def named_tool(answer: str) -> str | None:
    """The name of the called tool, even in invalid JSON."""
    found = re.search(r'"name"\s*:\s*"([^"]*)"', answer)
    return found[1] if found else None


def fits(arguments: Any, schema: Mapping[str, Any]) -> bool:
    return jsonschema.Draft202012Validator(schema).is_valid(arguments)


def same(found: Any, wanted: Mapping[str, Any]) -> bool:
    """Whether the arguments are the wanted ones, apart from case and surrounding whitespace."""
    return isinstance(found, dict) and _plain(found) == _plain(wanted)


def _plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value.strip().casefold() if isinstance(value, str) else value for key, value in arguments.items()}
