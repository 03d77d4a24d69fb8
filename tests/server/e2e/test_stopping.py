"""Answers that end before their length: stop strings, stop tokens, aborts. Their slots come back."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import Any

import pytest

from tests.server.e2e.asking import NUM_NEW, Asker, long_prompt, wait_until
from tests.tiny_models import FIRST_BYTE_ID

PROMPT = long_prompt(100)
MANY = 900
"""Tokens that take much longer than an abort, where each step takes STEP_SECONDS."""
STEP_SECONDS = 0.01


@pytest.mark.parametrize("keeps_it", [False, True])
def test_a_stop_string_ends_the_answer(asker: Asker, keeps_it: bool) -> None:
    text = asker.reference.text(PROMPT, NUM_NEW)
    stop = text[6:8]
    answer = asker.ask(PROMPT, sampling={"stop": [stop], "no_stop_trim": keeps_it})
    end = text.index(stop)
    assert answer["text"] == text[: end + len(stop)] if keeps_it else text[:end]
    assert answer["meta_info"]["finish_reason"] == {"type": "stop", "matched": stop}
    asker.reference.require(PROMPT, answer["output_ids"])


def test_a_stop_regex_ends_the_answer(asker: Asker) -> None:
    text = asker.reference.text(PROMPT, NUM_NEW)
    answer = asker.ask(PROMPT, sampling={"stop_regex": f"[{ord(text[6]):#x}]".replace("0x", r"\x")})
    assert answer["meta_info"]["finish_reason"]["type"] == "stop"
    assert len(answer["output_ids"]) == text.index(text[6]) + 1


def test_a_stop_token_ends_the_answer(asker: Asker) -> None:
    tokens = asker.reference.greedy(PROMPT, NUM_NEW)
    answer = asker.ask(PROMPT, sampling={"stop_token_ids": [tokens[9]]})
    assert answer["output_ids"] == tokens[: tokens.index(tokens[9]) + 1]


def test_stop_tokens_that_the_model_does_not_have_do_no_harm(asker: Asker) -> None:
    """Also where a minimum length makes SGLang look them up, for a whole batch."""
    params = [
        {"stop_token_ids": [128009, -5]},
        {"min_new_tokens": 5},
        {"stop_token_ids": [128009], "min_new_tokens": 5},
    ]
    params = [{"temperature": 0, "max_new_tokens": NUM_NEW, **each} for each in params]
    for answer in asker.server.generate(input_ids=[PROMPT] * len(params), sampling_params=params):
        assert len(answer["output_ids"]) == NUM_NEW
        asker.reference.require(PROMPT, answer["output_ids"])


def test_a_disconnected_client_frees_its_slots(asker: Asker) -> None:
    """Long before the answer would have been complete."""
    num_before = asker.num_decoded()
    with asker.slowed_down(STEP_SECONDS):
        with closing(asker.stream(PROMPT, MANY)) as events:
            partial = list(islice(events, 3))[-1]
            assert not asker.is_idle()
        wait_until(asker.is_idle)
    assert asker.num_decoded() - num_before < MANY - 1
    asker.reference.require(PROMPT, partial["output_ids"])
    asker.require_exact(PROMPT)


@pytest.mark.parametrize("abort", [{"rid": "long"}, {"abort_all": True}], ids=str)
def test_an_aborted_request_answers_what_it_has_and_frees_its_slots(asker: Asker, abort: dict[str, Any]) -> None:
    with ThreadPoolExecutor(1) as pool, asker.slowed_down(STEP_SECONDS):
        pending = pool.submit(asker.ask, PROMPT, MANY, rid="long")
        wait_until(lambda: not asker.is_idle())
        asker.server.post("/abort_request", abort)
        answer = pending.result()
    assert answer["meta_info"]["finish_reason"]["type"] == "abort"
    assert len(answer["output_ids"]) < MANY
    asker.reference.require(PROMPT, answer["output_ids"])
    wait_until(asker.is_idle)
    asker.require_exact(PROMPT)


def test_aborting_one_of_many_leaves_the_others_exact(asker: Asker) -> None:
    prompts = [long_prompt(90 + index, start=f"{index} ") for index in range(5)]
    with ThreadPoolExecutor(6) as pool, asker.slowed_down(STEP_SECONDS):
        doomed = pool.submit(asker.ask, PROMPT, MANY, rid="doomed")
        others = [pool.submit(asker.ask, prompt, 120) for prompt in prompts]
        wait_until(lambda: not asker.is_idle())
        asker.server.post("/abort_request", {"rid": "doomed"})
        answers = [other.result() for other in others]
        assert doomed.result()["meta_info"]["finish_reason"]["type"] == "abort"
    for prompt, answer in zip(prompts, answers, strict=True):
        assert len(answer["output_ids"]) == 120
        asker.reference.require(prompt, answer["output_ids"])


def test_a_prompt_can_be_aborted_between_two_chunks(asker: Asker) -> None:
    """A long prompt takes many chunks; its slots come back although it never generated."""
    num_before = asker.num_decoded()
    with ThreadPoolExecutor(1) as pool, asker.slowed_down(10 * STEP_SECONDS):
        pending = pool.submit(asker.ask, [FIRST_BYTE_ID + 65] * 2000, 40, rid="chunks")
        wait_until(lambda: not asker.is_idle())
        asker.server.post("/abort_request", {"rid": "chunks"})
        assert pending.result()["meta_info"]["finish_reason"]["type"] == "abort"
    wait_until(asker.is_idle)
    assert asker.num_decoded() == num_before
    asker.require_exact(PROMPT)
