"""Hidden states and embeddings over HTTP: those of the reference, and what has none is a bad request."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests
import torch
from openai import OpenAI
from torch import Tensor

from tests.host import IS_OLDEST
from tests.server.conftest import SERVER_ENV, SERVER_FLAGS
from tests.server.e2e.asking import Asker, long_prompt
from tests.server.e2e.reference_answers import LOGPROB_ATOL, Reference
from tests.server.servers import RunningServer, running_server

pytestmark = [
    pytest.mark.slow,  # a server for each
    pytest.mark.skipif(IS_OLDEST, reason="refused there"),
]
PROMPT = long_prompt(100)


@torch.no_grad()
def last_state(reference: Reference, tokens: list[int], num_prompt: int) -> Tensor:
    """After the last norm, of the last of `tokens`, which a prompt begins."""
    model, found = reference.model, list[Tensor]()
    norm = model.get_decoder().norm.register_forward_hook(lambda _, args, out: found.append(out[0, -1]))
    model(torch.tensor([tokens]), model.policy.deep_tokens(num_prompt))
    norm.remove()
    return found[-1]


def require_close(found: list[float], wanted: Tensor) -> None:
    torch.testing.assert_close(torch.tensor(found), wanted, atol=LOGPROB_ATOL, rtol=0)


def client_of(server: RunningServer) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=600, max_retries=0)


def test_the_last_hidden_state_is_returned_and_those_of_a_prompt_are_refused(
    tiny_speed: Path, reference: Reference
) -> None:
    """SGLang's own check of /generate takes true and false only."""
    with running_server(tiny_speed, *SERVER_FLAGS, "--enable-return-hidden-states", env=SERVER_ENV) as server:
        asker, last = Asker(server, reference), {"return_hidden_states": "last"}
        for num_tokens in (1, 5, 5):
            answer = client_of(server).completions.create(
                model="default", prompt=PROMPT, max_tokens=num_tokens, temperature=0, extra_body=last
            )
            tokens = [*PROMPT, *reference.greedy(PROMPT, num_tokens)[:-1]]
            require_close(answer.choices[0].hidden_states, last_state(reference, tokens, len(PROMPT)))  # type: ignore[attr-defined]
        with pytest.raises(requests.HTTPError, match="97 of its 100 tokens have no last hidden state") as refused:
            asker.ask(PROMPT, 5, return_hidden_states=True)
        assert refused.value.response.status_code == 400
        asker.require_exact(PROMPT)
        assert asker.is_idle()


def test_an_embedding_is_the_references(tiny_speed: Path, reference: Reference) -> None:
    with running_server(tiny_speed, *SERVER_FLAGS, "--is-embedding", env=SERVER_ENV) as server:
        prompts = [PROMPT, PROMPT[:2], [*PROMPT, 70, 75]]
        for _ in range(2):
            answer = client_of(server).embeddings.create(model="default", input=prompts)
            for prompt, each in zip(prompts, answer.data, strict=True):
                wanted = last_state(reference, prompt, len(prompt))
                require_close(each.embedding, wanted / wanted.norm())
