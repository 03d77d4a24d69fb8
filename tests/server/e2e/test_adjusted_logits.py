"""Penalties, biases and grammars change the logits that the reference gives: a loop by hand finds the same tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import xgrammar
from torch import Tensor

from tests.server.e2e.asking import Asker, long_prompt
from tests.server.e2e.reference_answers import Adjust, within
from tests.tiny_models import EOS_ID, FIRST_BYTE_ID, VOCAB_SIZE

PROMPT = long_prompt(120)
NUM_NEW = 48
FORBIDDEN = float("-inf")
SCHEMA = {
    "type": "object",
    "properties": {"depth": {"enum": ["shallow", "deep"]}, "anchor": {"type": "boolean"}},
    "required": ["depth", "anchor"],
    "additionalProperties": False,
}
WORDS = 'root ::= word (" " word){2}\nword ::= "shallow" | "deep" | "anchor" | "tail"'
PATTERN = "[a-z]{3}-[0-9]{4}"


def counts(output: list[int]) -> Tensor:
    """How often each token counts as generated, [vocab].

    SGLang's overlap schedule prepares a step before it knows the last token: it counts one token late, and the first
    time the last prompt token (`ScheduleBatch.cumulate_penalty_output_tokens`).
    """
    counted = [PROMPT[-1], *output[:-1]] if output else []
    return torch.bincount(torch.tensor(counted, dtype=torch.long), minlength=VOCAB_SIZE).float()


def repeated_less(logits: Tensor, output: list[int], penalty: float) -> Tensor:
    scaled = torch.where(logits < 0, logits * penalty, logits / penalty)
    return torch.where(counts(output) > 0, scaled, logits)


def not_before(logits: Tensor, output: list[int], token: int, num_tokens: int) -> Tensor:
    return logits.index_fill(0, torch.tensor([token, EOS_ID]), FORBIDDEN) if len(output) < num_tokens else logits


A, B = FIRST_BYTE_ID + ord("A"), FIRST_BYTE_ID + ord("B")
ADJUSTMENTS: dict[str, tuple[dict[str, Any], Adjust]] = {
    "frequency": ({"frequency_penalty": 1.5}, lambda logits, output: logits - 1.5 * counts(output)),
    "presence": ({"presence_penalty": 2.0}, lambda logits, output: logits - 2.0 * counts(output).clamp(max=1)),
    "repetition": ({"repetition_penalty": 1.7}, lambda logits, output: repeated_less(logits, output, 1.7)),
    "all three": (
        {"frequency_penalty": 0.5, "presence_penalty": 0.5, "repetition_penalty": 1.2},
        lambda logits, output: repeated_less(
            logits - 0.5 * counts(output) - 0.5 * counts(output).clamp(max=1), output, 1.2
        ),
    ),
    "logit bias": (
        {"logit_bias": {str(A): 3.0, str(B): 4.0}},
        lambda logits, output: logits.index_add(0, torch.tensor([A, B]), torch.tensor([3.0, 4.0])),
    ),
}


@pytest.mark.parametrize("name", ADJUSTMENTS)
def test_adjusted_answers_are_those_of_a_loop_by_hand(asker: Asker, name: str) -> None:
    sampling, adjust = ADJUSTMENTS[name]
    expected = asker.reference.adjusted(PROMPT, NUM_NEW, adjust)
    assert expected != asker.reference.greedy(PROMPT, NUM_NEW), "the adjustment changes nothing, so this proves nothing"
    for _ in range(2):
        assert asker.ask(PROMPT, NUM_NEW, sampling=sampling)["output_ids"] == expected


def test_penalties_of_some_requests_leave_the_others_of_their_batch_exact(asker: Asker) -> None:
    """When SGLang counts the last prompt token depends on what else is scheduled, so only the others are foretold."""
    params = [{"temperature": 0, "max_new_tokens": NUM_NEW, **sampling} for sampling, _ in ADJUSTMENTS.values()]
    params = [each for penalized in params for each in (penalized, {"temperature": 0, "max_new_tokens": NUM_NEW})]
    answers = asker.server.generate(input_ids=[PROMPT] * len(params), sampling_params=params)
    assert all(len(answer["output_ids"]) == NUM_NEW for answer in answers)
    for answer in answers[1::2]:
        asker.reference.require(PROMPT, answer["output_ids"])


def test_a_minimum_length_forbids_stop_tokens(asker: Asker) -> None:
    stop = asker.reference.greedy(PROMPT, 3)[2]
    expected = asker.reference.adjusted(PROMPT, NUM_NEW, lambda *step: not_before(*step, stop, 10))
    if stop in expected:
        expected = expected[: expected.index(stop) + 1]
    answer = asker.ask(PROMPT, NUM_NEW, sampling={"stop_token_ids": [stop], "min_new_tokens": 10})
    assert answer["output_ids"] == expected
    assert len(expected) > 10


Compile = Callable[[xgrammar.GrammarCompiler], xgrammar.CompiledGrammar]
GRAMMARS: dict[str, tuple[dict[str, Any], Compile]] = {
    "regex": ({"regex": PATTERN}, lambda compiler: compiler.compile_regex(PATTERN)),
    "json_schema": (
        {"json_schema": json.dumps(SCHEMA)},
        lambda compiler: compiler.compile_json_schema(SCHEMA, any_whitespace=False),
    ),
    "ebnf": ({"ebnf": WORDS}, lambda compiler: compiler.compile_grammar(WORDS)),
}


def is_valid(kind: str, text: str) -> bool:
    if kind == "json_schema":
        answer = json.loads(text)
        return set(answer) == {"depth", "anchor"} and answer["depth"] in SCHEMA["properties"]["depth"]["enum"]
    word = "(shallow|deep|anchor|tail)"
    return re.fullmatch(PATTERN if kind == "regex" else f"{word} {word} {word}", text) is not None


@pytest.mark.parametrize("kind", GRAMMARS)
def test_constrained_answers_are_valid_and_those_of_a_loop_by_hand(asker: Asker, kind: str) -> None:
    sampling, compile_grammar = GRAMMARS[kind]
    tokenizer_info = xgrammar.TokenizerInfo.from_huggingface(asker.reference.tokenizer, vocab_size=VOCAB_SIZE)
    grammar = compile_grammar(xgrammar.GrammarCompiler(tokenizer_info))
    expected = asker.reference.adjusted(PROMPT, 100, within(grammar))
    for _ in range(2):
        answer = asker.ask(PROMPT, 100, sampling=sampling)
        assert answer["output_ids"] == expected
        assert is_valid(kind, answer["text"]), answer["text"]


def test_constrained_and_free_requests_share_a_batch(asker: Asker) -> None:
    kinds = [*GRAMMARS, None, *GRAMMARS]
    params = [{"temperature": 0, "max_new_tokens": 100, **(GRAMMARS[kind][0] if kind else {})} for kind in kinds]
    answers = asker.server.generate(input_ids=[PROMPT] * len(params), sampling_params=params)
    for kind, answer in zip(kinds, answers, strict=True):
        if kind is None:
            asker.reference.require(PROMPT, answer["output_ids"])
        else:
            assert is_valid(kind, answer["text"]), answer["text"]
