"""Penalties act on the reference's logits: counted by hand over what was generated, not over the prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pytest
import torch

from tests.inprocess.parity.expected import Expected, prompt
from tests.scheduler_harness import running_scheduler

# a repetition penalty does not commute with the others, and SGLang applies them in the order of a set of classes
PENALTIES = [
    {"frequency_penalty": 1.5},
    {"presence_penalty": 1.0},
    {"repetition_penalty": 1.8},
    {"frequency_penalty": 0.7, "presence_penalty": 0.9},
]


@torch.no_grad()
def generate(expected: Expected, question: list[int], num_tokens: int, penalties: Mapping[str, float]) -> list[int]:
    generated: list[int] = []
    deep_tokens = expected.model.policy.deep_tokens(len(question))
    for _ in range(num_tokens):
        logits = expected.model(torch.tensor([question + generated]), deep_tokens).logits[0, -1]
        for token, count in Counter(generated).items():
            logits[token] -= penalties.get("frequency_penalty", 0.0) * count + penalties.get("presence_penalty", 0.0)
            repetition = penalties.get("repetition_penalty", 1.0)
            logits[token] *= repetition if logits[token] < 0 else 1 / repetition
        generated.append(int(logits.argmax()))
    return generated


def test_penalties_are_the_references(expected: Expected) -> None:
    """Without overlap, which counts a token one step late. Cold, in one batch, and on a cached prompt."""
    questions = [prompt(6 + 11 * seed, seed=seed) for seed in range(len(PENALTIES))]
    wanted = [generate(expected, one, 24, by) for one, by in zip(questions, PENALTIES, strict=True)]
    assert all(wish != expected.greedy(one, 24) for wish, one in zip(wanted, questions, strict=True))
    with running_scheduler(expected.path, disable_overlap_schedule=True) as engine:
        for _ in range(2):
            names = [engine.submit(one, 24, sampling=by) for one, by in zip(questions, PENALTIES, strict=True)]
            plain = engine.submit(questions[0], 24)
            answers = engine.run()
            assert [answers[name].output_ids for name in names] == wanted
            assert answers[plain].output_ids == expected.greedy(questions[0], 24)


@pytest.mark.parametrize("name", ["frequency_penalty", "presence_penalty"])
def test_a_penalized_request_is_resumed_exactly(expected: Expected, name: str) -> None:
    """SGLang forgets what it has counted when it retracts a request of any model, so nothing is claimed but the end."""
    with running_scheduler(expected.path, retract_every=4) as engine:
        names = [engine.submit(prompt(9 + seed), 12, sampling={name: 1.0}) for seed in range(4)]
        answers = engine.run()
    assert all(len(answers[one].output_ids) == 12 for one in names)
