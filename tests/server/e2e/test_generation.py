"""Served tokens are the reference's: cold and warm, streamed, in batches, side by side."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from tests.server.conftest import DEEP_TOKENS, MAX_TOTAL_TOKENS, SPEED
from tests.server.e2e.asking import NUM_NEW, Asker, long_prompt
from tests.tiny_models import ids_of

PROMPT = long_prompt(200)
TEXTS = ("Hello there", "Which tokens are deep?", "a", "Prompt tokens pass " * 12)


@pytest.mark.parametrize("num_prompt_tokens", [1, 2, 3, 4, 5, 63, 64, 65, 200, 1100])
def test_a_cold_and_a_warm_answer_are_the_references(asker: Asker, num_prompt_tokens: int) -> None:
    """1100 is more than the deep band holds at all, and takes 18 chunks."""
    prompt = long_prompt(num_prompt_tokens)
    cold, warm = (asker.require_exact(prompt) for _ in range(2))
    assert cold["meta_info"]["cached_tokens"] == 0
    assert warm["meta_info"]["cached_tokens"] == max(0, num_prompt_tokens - SPEED["tail_tokens"])


def test_an_answer_is_shared_as_part_of_the_next_prompt(asker: Asker) -> None:
    first = asker.require_exact(PROMPT)
    longer = PROMPT + first["output_ids"] + ids_of("And then?")[1:]
    second = asker.require_exact(longer)
    assert second["meta_info"]["cached_tokens"] >= len(PROMPT) + NUM_NEW - 1


@pytest.mark.parametrize("text", TEXTS)
def test_text_in_gives_the_references_text_out(asker: Asker, text: str) -> None:
    answer = asker.server.generate(text=text, sampling_params={"temperature": 0, "max_new_tokens": NUM_NEW})
    assert answer["text"] == asker.reference.text(ids_of(text), NUM_NEW)


def test_a_stream_grows_into_the_whole_answer(asker: Asker) -> None:
    events = list(asker.stream(PROMPT))
    texts = [event["text"] for event in events]
    assert len(texts) > 1
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts))
    assert texts[-1] == asker.reference.text(PROMPT, NUM_NEW)
    asker.reference.require(PROMPT, events[-1]["output_ids"])


def test_n_answers_to_one_prompt_are_equal(asker: Asker) -> None:
    answers = asker.ask(PROMPT, sampling={"n": 4})
    assert len(answers) == 4
    for answer in answers:
        asker.reference.require(PROMPT, answer["output_ids"])


def test_a_batch_is_answered_in_order(asker: Asker) -> None:
    prompts = [ids_of(text) for text in TEXTS]
    for prompt, answer in zip(prompts, asker.ask(prompts), strict=True):
        asker.reference.require(prompt, answer["output_ids"])


def test_identical_prompts_in_one_batch_are_exact(asker: Asker) -> None:
    """They start cold together, so each computes the anchor itself; one of them is shared afterwards."""
    for answer in asker.ask([PROMPT] * 6):
        asker.reference.require(PROMPT, answer["output_ids"])
    assert asker.speed_state()["deep_anchor_tokens"] == 1


def test_concurrent_requests_are_exact(asker: Asker) -> None:
    """More of them than the server runs at a time, some with a common prefix, each of its own length."""
    prompts = [long_prompt(20 + 17 * index, start=f"{index % 4} ") for index in range(24)]
    with ThreadPoolExecutor(len(prompts)) as pool:
        answers = list(pool.map(lambda prompt: asker.ask(prompt, 10 + len(prompt) % 20), prompts))
    for prompt, answer in zip(prompts, answers, strict=True):
        assert len(answer["output_ids"]) == 10 + len(prompt) % 20
        asker.reference.require(prompt, answer["output_ids"])


def test_more_is_generated_at_once_than_the_deep_band_holds(asker: Asker) -> None:
    """Some have to wait for deep slots, although the shallow band has room for all."""
    prompts, num_tokens = [long_prompt(60, start=f"{index} ") for index in range(6)], 220
    assert len(prompts) * num_tokens > DEEP_TOKENS
    assert len(prompts) * (num_tokens + 60) < MAX_TOTAL_TOKENS
    for prompt, answer in zip(prompts, asker.ask(prompts, num_tokens), strict=True):
        assert len(answer["output_ids"]) == num_tokens
        asker.reference.require(prompt, answer["output_ids"])


def test_prompts_that_start_with_different_tokens_have_their_own_anchors(asker: Asker) -> None:
    for first in (40, 41, 42):
        for _ in range(2):
            asker.require_exact([first, *PROMPT])
    assert asker.speed_state()["deep_anchor_tokens"] == 3


def test_an_extra_key_shares_neither_prefix_nor_anchors(asker: Asker) -> None:
    asker.require_exact(PROMPT)
    other = asker.require_exact(PROMPT, extra_key="another tenant")
    assert other["meta_info"]["cached_tokens"] == 0
    assert asker.speed_state()["deep_anchor_tokens"] == 2


def test_no_new_tokens_only_warm_the_cache(asker: Asker) -> None:
    answer = asker.ask(PROMPT, 0)
    assert (answer["text"], answer["meta_info"]["completion_tokens"]) == ("", 0)
    warm = asker.require_exact(PROMPT)
    assert warm["meta_info"]["cached_tokens"] == len(PROMPT) - SPEED["tail_tokens"]


def test_an_answer_may_outgrow_the_decode_log_interval(asker: Asker) -> None:
    asker.require_exact(ids_of("Go on"), 200)


@pytest.mark.parametrize("sampling", [{"top_p": 0.9}, {"top_k": 5}, {"min_p": 0.1}, {"n": 3}], ids=str)
def test_sampling_gives_as_many_tokens_as_asked_for(asker: Asker, sampling: dict[str, float]) -> None:
    answers = asker.ask(PROMPT, sampling={"temperature": 0.8, "ignore_eos": True, **sampling})
    for answer in answers if isinstance(answers, list) else [answers]:
        assert len(answer["output_ids"]) == NUM_NEW


def test_sampling_draws_from_the_references_best_tokens(asker: Asker) -> None:
    best_two = asker.reference.steps(PROMPT, 1)[0].logits.topk(2).indices.tolist()
    answers = asker.ask(PROMPT, 1, sampling={"temperature": 2.0, "top_k": 2, "n": 48})
    assert {answer["output_ids"][0] for answer in answers} == set(best_two)
