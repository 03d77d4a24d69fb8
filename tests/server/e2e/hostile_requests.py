"""Requests with one hostile field each: every field of every request type, with every value of one list.

Owns the values and where they are put. Sends nothing.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sglang.srt.entrypoints.openai.protocol import ChatCompletionRequest, CompletionRequest
from sglang.srt.managers.io_struct import GenerateReqInput
from sglang.srt.sampling.sampling_params import SamplingParams

PROMPT = [0, 74, 107, 99]
SAMPLING = {"temperature": 0, "max_new_tokens": 2}
SCORED = {"return_logprob": True, "logprob_start_len": 0, "top_logprobs_num": 2, "token_ids_logprob": [5]}
SCORE_FIELDS = [*SCORED, "return_text_in_logprobs", "return_flat_raw_top_logprobs", "return_sampling_mask"]
CHAT = {
    "model": "default",
    "messages": [{"role": "user", "content": "Hi"}],
    "temperature": 0,
    "max_tokens": 2,
}
COMPLETION = {"model": "default", "prompt": "Hi", "temperature": 0, "max_tokens": 2}

NUMBERS = (0, 1, 2, -1, -2, 300, -(2**31), 2**31, 2**63 - 1, 2**63, 2**70, 0.5, -0.5, 1e-300, 1e308)
TEXTS = ("", "x", "\0", "[", "(a+)+$", '{"$ref": "#"}', "\U0001f642", "x" * 20_000)
LISTS = ([], [None], [0], [-1], [2**31], ["x"], [0.5], [[]], [[0]], [{}], [["x"]], [[[0.5] * 64]], [0] * 5000)
OBJECTS = (
    {},
    {"x": 1},
    {"x": None},
    {"0": 1e308},
    {"-1": 1},
    {"0": "x"},
    {"id": "nobody"},
    {"id": None, "rid": 1, "offset": -1, "replace": True, "drop_previous_output": "x"},
    {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": 1}}},
    {"type": "structural_tag", "structures": [], "triggers": []},
    {"type": "function", "function": {"name": "absent"}},
    {"n": -1, "max_new_tokens": -1},
)
VALUES: tuple[Any, ...] = (None, True, False, *NUMBERS, *TEXTS, *LISTS, *OBJECTS)

CROWDS = ("n", "best_of")
"""Fields that multiply a request: larger values than a server may accept are tried one by one, not here."""


@dataclass(frozen=True)
class Hostile:
    """A request: where it goes and what it says."""

    name: str
    path: str
    payload: Mapping[str, Any]


def hostile_requests() -> list[Hostile]:
    """All of them, the same each time."""
    return [
        *_with_each(_fields_of_generate(), "/generate", {"input_ids": PROMPT, "sampling_params": SAMPLING}),
        *_with_each(SCORE_FIELDS, "/generate", {"input_ids": PROMPT, "sampling_params": SAMPLING, **SCORED}, "scored "),
        *_with_each_sampling_parameter(SAMPLING, "greedy"),
        *_with_each_sampling_parameter({**SAMPLING, "temperature": 1}, "drawn"),
        *_with_each(_fields_of_generate(), "/generate", {"text": ["Hi", "Ho"], "sampling_params": SAMPLING}, "batch "),
        *_with_each(list(ChatCompletionRequest.model_fields), "/v1/chat/completions", CHAT),
        *_with_each(list(CompletionRequest.model_fields), "/v1/completions", COMPLETION),
    ]


def hostile_mixtures(count: int, seed: int) -> list[Hostile]:
    """Requests with two to four hostile fields."""
    draw = random.Random(seed)
    singles = hostile_requests()
    by_path: dict[str, list[Hostile]] = {}
    for single in singles:
        by_path.setdefault(single.path, []).append(single)
    return [_mixture(draw, by_path[draw.choice(sorted(by_path))], index) for index in range(count)]


def _mixture(draw: random.Random, among: list[Hostile], index: int) -> Hostile:
    parts = draw.sample(among, draw.randint(2, 4))
    payload: dict[str, Any] = {}
    for part in parts:
        sampling = (
            {**payload.get("sampling_params", {}), **part.payload["sampling_params"]} if _both(payload, part) else None
        )
        payload |= part.payload
        if sampling is not None:
            payload["sampling_params"] = sampling
    return Hostile(f"mixture {index}: " + " + ".join(part.name for part in parts), parts[0].path, payload)


def _both(payload: Mapping[str, Any], part: Hostile) -> bool:
    return isinstance(payload.get("sampling_params"), dict) and isinstance(part.payload.get("sampling_params"), dict)


def _fields_of_generate() -> list[str]:
    return [field.name for field in dataclasses.fields(GenerateReqInput)]


def _with_each(fields: list[str], path: str, base: Mapping[str, Any], name: str = "") -> Iterator[Hostile]:
    for field in fields:
        for value in VALUES:
            if not _is_crowd(field, value):
                yield Hostile(f"{path} {name}{field}={_short(value)}", path, {**base, field: value})


def _with_each_sampling_parameter(base: Mapping[str, Any], name: str) -> Iterator[Hostile]:
    for field in SamplingParams.__struct_fields__:
        for value in VALUES:
            if not _is_crowd(field, value):
                payload = {"input_ids": PROMPT, "sampling_params": {**base, field: value}}
                yield Hostile(f"{name} {field}={_short(value)}", "/generate", payload)


def _is_crowd(field: str, value: Any) -> bool:
    return field in CROWDS and isinstance(value, int) and value > 1000


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:40]}... ({len(text)} characters)"
