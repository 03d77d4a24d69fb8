"""A request that cannot be served gets an error and its reason; the next one is exact, which `asker` checks."""

from __future__ import annotations

from typing import Any

import pytest
import requests

from tests.server.conftest import DEEP_TOKENS
from tests.server.e2e.asking import Asker, long_prompt
from tests.server.e2e.bad_requests import BAD_REQUESTS, Bad

SHORT = long_prompt(20)
TOO_LONG = long_prompt(DEEP_TOKENS + 100)
NEVER_FITS: dict[str, Any] = {"input_ids": TOO_LONG, "return_logprob": True, "logprob_start_len": 0}


def send(asker: Asker, bad: Bad) -> requests.Response:
    headers = {"content-type": "application/json"}
    return requests.post(asker.server.url + bad.path, data=bad.data, headers=headers, timeout=60)


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_a_bad_request_is_answered_and_the_next_one_is_exact(asker: Asker, name: str) -> None:
    bad = BAD_REQUESTS[name]
    response = send(asker, bad)
    assert response.status_code == bad.status, response.text[:1000]
    assert bad.words in response.text


def test_a_refused_request_in_a_batch_leaves_the_others_alone(asker: Asker) -> None:
    """SGLang answers the batch as a whole."""
    payload = {**NEVER_FITS, "input_ids": [SHORT, TOO_LONG]}
    assert requests.post(f"{asker.server.url}/generate", json=payload, timeout=60).status_code == 400
    asker.require_exact(SHORT)


def test_a_refused_stream_ends_with_the_reason(asker: Asker) -> None:
    payload = {**NEVER_FITS, "stream": True}
    text = requests.post(f"{asker.server.url}/generate", json=payload, timeout=60).text
    assert "sglang_speed: the request needs" in text


def test_the_same_long_prompt_is_served_where_it_is_not_scored(asker: Asker) -> None:
    asker.require_exact(TOO_LONG, 4)
    asker.require_exact(TOO_LONG, 4, return_logprob=True, logprob_start_len=len(TOO_LONG) - 50)


def test_a_running_request_does_not_notice_bad_ones(asker: Asker) -> None:
    """Refused requests, dead ends of grammars among them, come and go while another one generates."""
    prompt, expected_len = long_prompt(100), 150
    names = ("a grammar with a dead end", "a token id beyond the vocabulary", "no token but stop tokens")
    *_, last = (sent for sent in _interleaved(asker, prompt, expected_len, [BAD_REQUESTS[name] for name in names]))
    assert len(last["output_ids"]) == expected_len
    asker.reference.require(prompt, last["output_ids"])


def _interleaved(asker: Asker, prompt: list[int], num_tokens: int, bad: list[Bad]) -> Any:
    for index, event in enumerate(asker.stream(prompt, num_tokens)):
        if index < len(bad):
            assert send(asker, bad[index]).status_code == bad[index].status
        yield event
