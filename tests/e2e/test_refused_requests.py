"""A request that cannot be served gets an ordinary error and its reason; the server goes on, which `asker` checks."""

from __future__ import annotations

from typing import Any

import pytest
import requests

from tests.conftest import DEEP_TOKENS
from tests.e2e.asking import Asker, long_prompt

SHORT = long_prompt(20)
TOO_LONG = long_prompt(DEEP_TOKENS + 100)
NEVER_FITS = {"input_ids": TOO_LONG, "return_logprob": True, "logprob_start_len": 0}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "scores that the deep band cannot hold": (
        "/generate",
        NEVER_FITS,
        "the deep band holds 1024; raise logprob_start_len",
    ),
    "a prompt beyond the context": ("/generate", {"input_ids": [7] * 4000}, "context length"),
    "hidden states": ("/generate", {"input_ids": SHORT, "return_hidden_states": True}, "hidden states"),
    "an adapter": ("/generate", {"input_ids": SHORT, "lora_path": "adapter"}, "LoRA is not enabled"),
    "embeddings": ("/v1/embeddings", {"model": "default", "input": "text"}, "embedding model"),
    "embeddings of SGLang's own": ("/encode", {"text": "text"}, "embedding model"),
    "two grammars": (
        "/generate",
        {"input_ids": SHORT, "sampling_params": {"regex": "a", "ebnf": 'root ::= "a"'}},
        "Only one of",
    ),
    "a start behind the prompt": (
        "/generate",
        {"input_ids": SHORT, "return_logprob": True, "logprob_start_len": 500},
        "logprob_start_len",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_answers_400_and_says_why(asker: Asker, name: str) -> None:
    path, payload, reason = REFUSED[name]
    for _ in range(2):
        response = requests.post(asker.server.url + path, json=payload, timeout=60)
        assert response.status_code == 400
        assert reason in response.text


def test_a_refused_request_in_a_batch_leaves_the_others_alone(asker: Asker) -> None:
    """SGLang answers the batch as a whole."""
    payload = {"input_ids": [SHORT, TOO_LONG], "return_logprob": True, "logprob_start_len": 0}
    assert requests.post(f"{asker.server.url}/generate", json=payload, timeout=60).status_code == 400
    asker.require_exact(SHORT)


def test_a_refused_stream_ends_with_the_reason(asker: Asker) -> None:
    payload = {**NEVER_FITS, "stream": True}
    text = requests.post(f"{asker.server.url}/generate", json=payload, timeout=60).text
    assert "sglang_speed: the request needs" in text


def test_the_same_long_prompt_is_served_where_it_is_not_scored(asker: Asker) -> None:
    asker.require_exact(TOO_LONG, 4)
    asker.require_exact(TOO_LONG, 4, return_logprob=True, logprob_start_len=len(TOO_LONG) - 50)
