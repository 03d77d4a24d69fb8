"""What `sglang-speed eval` asks a server for is what the model says: scores, and conversations of several turns."""

from __future__ import annotations

import pytest

from sglang_speed.config import SpeedConfig
from sglang_speed.errors import ConfigError
from sglang_speed.lab.common.chat import Chat
from sglang_speed.lab.common.client import Client
from sglang_speed.lab.evaluation.command import chat_format_of
from sglang_speed.lab.evaluation.measure import Answers
from sglang_speed.lab.evaluation.subjects import full_depth_of, running
from sglang_speed.lab.evaluation.tasks.base import assistant, user
from sglang_speed.lab.evaluation.tasks.recall import NUM_FACTS, Recall
from tests.server.conftest import SPEED
from tests.server.e2e.asking import Asker, long_prompt, require_close
from tests.server.e2e.reference_answers import LOGPROB_ATOL

TAIL = SPEED["tail_tokens"]


def test_a_response_is_scored_as_it_was_generated(asker: Asker) -> None:
    """Also a short one, behind which the tail would reach further back into the context than it did."""
    for num_tokens in (1, 2, 24):
        prompt = long_prompt(70, f"{num_tokens}. ")
        answer = asker.ask(prompt, num_tokens, return_logprob=True)
        said = [entry[0] for entry in answer["meta_info"]["output_token_logprobs"]]
        found = Client(asker.server.url).score(prompt, answer["output_ids"], TAIL)
        require_close(found.logprobs, said)
        assert found.best == tuple(answer["output_ids"])


def test_scored_from_the_last_prompt_token_the_tail_would_be_another(asker: Asker) -> None:
    prompt, answer = long_prompt(70), asker.ask(long_prompt(70), 8)
    right = Client(asker.server.url).score(prompt, answer["output_ids"], TAIL)
    wrong = Client(asker.server.url).score(prompt, answer["output_ids"], 1)
    assert wrong.logprobs != pytest.approx(right.logprobs, abs=10 * LOGPROB_ATOL)


def test_a_running_server_says_its_bands(asker: Asker) -> None:
    assert running(asker.server.url, "server").speed == SpeedConfig(8, **SPEED)
    with pytest.raises(ConfigError, match="serves prompts in 6 of 8 layers: --full-depth must run all layers"):
        full_depth_of(asker.server.url)


def test_every_turn_has_the_models_own_answers_before_it(asker: Asker) -> None:
    server = running(asker.server.url, "server")
    chat_format = chat_format_of([server])
    asked = Answers(Recall(), chat_format, 0, NUM_FACTS)
    (found,) = asked.ask(Client(asker.server.url), server.tail_tokens)
    (item,) = asked.items
    messages = list(item.opening)
    for turn, answer in zip(item.turns, found.answers, strict=True):
        messages.append(user(turn))
        assert answer == asker.reference.text(chat_format.prompt_ids(Chat(messages)), asked.task.max_new_tokens).strip()
        messages.append(assistant(answer))
