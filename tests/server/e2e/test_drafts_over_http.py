"""Drafts over HTTP: a server that speculates, as a user starts it, says what one without drafts says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.host import IS_OLDEST
from tests.server.conftest import REPORT_FLAGS, SERVER_ENV, SERVER_FLAGS
from tests.server.e2e.asking import Asker, long_prompt
from tests.server.e2e.reference_answers import Reference
from tests.server.servers import running_server
from tests.tiny_models import ids_of, make_tiny_model

pytestmark = [
    pytest.mark.slow,  # servers of its own
    pytest.mark.skipif(IS_OLDEST, reason="refused there, see test_refused_settings"),
]

QUESTIONS = ("Which tokens are deep?", "And which are shallow?", "Which tokens are deep?")
PROMPTS = [long_prompt(30 + 25 * index, start=f"{index} ") for index in range(6)]
NUM_TOKENS = 48
"""A random model repeats itself after some tokens, which is what NGRAM drafts."""


@pytest.fixture(
    scope="module",
    params=[("NGRAM", 1), ("STANDALONE", 1), ("NGRAM", 2), ("STANDALONE", 2)],
    ids=lambda case: f"{case[0]}, {case[1]} ranks",
)
def asker(
    request: pytest.FixtureRequest, tiny_speed: Path, reference: Reference, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Asker]:
    """STANDALONE drafts with the same weights at full depth, which often say the same."""
    algorithm, num_ranks = request.param
    drafting = ["--speculative-algorithm", algorithm, "--tp-size", str(num_ranks)]
    if algorithm == "STANDALONE":
        draft_model = make_tiny_model(tmp_path_factory.mktemp("draft"))
        drafting += ["--speculative-draft-model-path", str(draft_model), "--speculative-num-steps", "3"]
        drafting += ["--speculative-eagle-topk", "1", "--speculative-num-draft-tokens", "4"]
    flags = (*SERVER_FLAGS, *REPORT_FLAGS, *drafting)
    with running_server(tiny_speed, *flags, env=SERVER_ENV, in_new_interpreter=True) as server:
        yield Asker(server, reference)
        assert server.is_alive, server.log[-6000:]


def test_each_turn_of_a_chat_is_answered_as_without_drafts(asker: Asker) -> None:
    messages: list[Any] = []
    for question in QUESTIONS:
        messages.append({"role": "user", "content": question})
        text = asker.reference.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        asked = {"model": "default", "messages": messages, "temperature": 0, "max_tokens": NUM_TOKENS}
        (choice,) = asker.server.post("/v1/chat/completions", asked)["choices"]
        assert choice["message"]["content"] == asker.reference.text(ids_of(text.removeprefix("<bos>")), NUM_TOKENS)
        messages.append(choice["message"])


def test_batches_are_exact_and_drafts_are_accepted(asker: Asker) -> None:
    """Cold and warm."""
    for _ in range(3):
        for prompt, answer in zip(PROMPTS, asker.ask(PROMPTS, NUM_TOKENS), strict=True):
            asker.reference.require(prompt, answer["output_ids"])
    assert asker.is_idle()
    info = requests.get(f"{asker.server.url}/server_info", timeout=60).json()
    assert info["internal_states"][0]["avg_spec_accept_length"] > 1.1


def test_ranks_agree_on_sampled_answers(asker: Asker) -> None:
    """Drafts are accepted by chance there; ranks that disagree would wait for each other, or write other slots."""
    sampled = asker.ask(PROMPTS, NUM_TOKENS, {"temperature": 1.0, "ignore_eos": True})
    assert [len(answer["output_ids"]) for answer in sampled] == [NUM_TOKENS] * len(PROMPTS)
    assert asker.is_idle()
    asker.require_exact(PROMPTS[1], NUM_TOKENS)


def test_streams_that_end_early_leave_nothing(asker: Asker) -> None:
    for prompt in PROMPTS:
        events = asker.stream(prompt, 200)
        next(events)
        events.close()
    asker.require_exact(PROMPTS[0], NUM_TOKENS)
