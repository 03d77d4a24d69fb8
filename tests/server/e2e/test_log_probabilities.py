"""Scores are those of the model as served: a scored span is decode-phase, its context is prefill."""

from __future__ import annotations

from typing import Any

import pytest

from sglang_speed.reference.generation import score
from tests.server.e2e.asking import NUM_NEW, Asker, long_prompt, require_close
from tests.tiny_models import ids_of

PROMPT = long_prompt(150)
STARTS = (0, 1, 75, 146, 147, 149)
"""The first, the middle, one before the tail of three, the tail itself and its last token."""


def values(entries: list[list[Any]]) -> list[float]:
    return [entry[0] for entry in entries]


@pytest.mark.parametrize("start", STARTS)
def test_input_scores_are_the_references_cold_and_warm(asker: Asker, start: int) -> None:
    expected = score(asker.reference.model, PROMPT, start)
    for _ in range(2):
        answer = asker.require_exact(PROMPT, return_logprob=True, logprob_start_len=start)
        first, *others = answer["meta_info"]["input_token_logprobs"]
        assert first[:2] == [None, PROMPT[start]]
        assert [entry[1] for entry in others] == PROMPT[start + 1 :]
        require_close(values(others), expected)
        assert answer["meta_info"]["cached_tokens"] <= start


@pytest.mark.parametrize("start", STARTS)
def test_scores_are_exact_after_an_ordinary_request_filled_the_cache(asker: Asker, start: int) -> None:
    asker.require_exact(PROMPT)
    answer = asker.require_exact(PROMPT, return_logprob=True, logprob_start_len=start)
    require_close(values(answer["meta_info"]["input_token_logprobs"][1:]), score(asker.reference.model, PROMPT, start))
    asker.require_exact(PROMPT)


def test_scored_and_ordinary_requests_share_a_batch(asker: Asker) -> None:
    """The same tokens are deep for one request and shallow for the other."""
    starts = [-1, 0, 75, -1, 140]
    scored = [start >= 0 for start in starts]
    answers = asker.ask([PROMPT] * 5, return_logprob=scored, logprob_start_len=starts)
    for start, answer in zip(starts, answers, strict=True):
        asker.reference.require(PROMPT, answer["output_ids"], scored_from=start if start >= 0 else None)
        if start >= 0:
            found = values(answer["meta_info"]["input_token_logprobs"][1:])
            require_close(found, score(asker.reference.model, PROMPT, start))


def test_output_scores_are_those_of_the_reference(asker: Asker) -> None:
    """Asked for alone they change no token: no prompt token is scored."""
    answer = asker.require_exact(PROMPT, return_logprob=True)
    steps = asker.reference.steps(PROMPT, NUM_NEW)
    expected = [float(step.logits.log_softmax(-1)[step.token_id]) for step in steps]
    assert answer["meta_info"]["input_token_logprobs"] == []
    require_close(values(answer["meta_info"]["output_token_logprobs"]), expected)


def test_scores_without_generation_are_the_references(asker: Asker) -> None:
    answer = asker.ask(PROMPT, 0, return_logprob=True, logprob_start_len=90)
    require_close(values(answer["meta_info"]["input_token_logprobs"][1:]), score(asker.reference.model, PROMPT, 90))


def test_the_best_tokens_of_every_scored_position_are_the_references(asker: Asker) -> None:
    answer = asker.ask(PROMPT, 1, return_logprob=True, logprob_start_len=100, top_logprobs_num=4)
    expected = asker.reference.logprobs(PROMPT, 100).topk(4)
    first, *found = answer["meta_info"]["input_top_logprobs"]
    assert first is None
    found += answer["meta_info"]["output_top_logprobs"]
    for entries, logprobs, tokens in zip(found, expected.values.tolist(), expected.indices.tolist(), strict=True):
        require_close(values(entries), logprobs)
        assert [entry[1] for entry in entries] == tokens


def test_scores_of_given_tokens_are_the_references(asker: Asker) -> None:
    tokens = [40, 41, 97]
    answer = asker.ask(PROMPT, 1, return_logprob=True, logprob_start_len=120, token_ids_logprob=tokens)
    expected = asker.reference.logprobs(PROMPT, 120)[:, tokens].tolist()
    _, *found = answer["meta_info"]["input_token_ids_logprobs"]
    found += answer["meta_info"]["output_token_ids_logprobs"]
    for entries, logprobs in zip(found, expected, strict=True):
        require_close(values(entries), logprobs)


def test_the_score_endpoint_gives_the_chances_of_labels(asker: Asker) -> None:
    labels, query, items = [40, 41, 97], "Is this token deep? ", ["The first", "One in the middle", "The last"]
    payload = {"query": query, "items": items, "label_token_ids": labels, "model": "default"}
    found = asker.server.post("/v1/score", payload)["scores"]
    for item, chances in zip(items, found, strict=True):
        logits = asker.reference.steps(ids_of(query + item), 1)[0].logits
        require_close(chances, logits.softmax(-1)[labels].tolist())


def test_an_echoed_completion_is_scored_from_its_first_token(asker: Asker) -> None:
    text = "What is said, and what was read?"
    prompt = ids_of(text)
    payload = {"model": "default", "prompt": text, "max_tokens": 6, "temperature": 0, "echo": True, "logprobs": 1}
    (choice,) = asker.server.post("/v1/completions", payload)["choices"]
    output = asker.reference.greedy(prompt, 6, scored_from=0)
    assert choice["text"] == text + asker.reference.tokenizer.decode(output)
    none, *found = choice["logprobs"]["token_logprobs"]
    assert none is None
    require_close(found, score(asker.reference.model, prompt + output, 0))
