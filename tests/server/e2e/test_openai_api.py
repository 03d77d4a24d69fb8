"""The OpenAI client: chats that grow, streams, completions, tool calls by schema."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai import OpenAI

from tests.server.e2e.asking import Asker
from tests.tiny_models import ids_of

QUESTIONS = ("Which tokens are deep?", "And which are shallow?", "Why is the first one both?", "Thank you.")
MAX_TOKENS = 20


@pytest.fixture
def client(asker: Asker) -> OpenAI:
    return OpenAI(base_url=f"{asker.server.url}/v1", api_key="none", timeout=600, max_retries=0)


def templated(asker: Asker, messages: list[Any]) -> list[int]:
    text = asker.reference.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return ids_of(text.removeprefix("<bos>"))


def chat(client: OpenAI, messages: list[Any], **fields: Any) -> Any:
    return client.chat.completions.create(
        model="default", messages=messages, temperature=0, max_tokens=MAX_TOKENS, **fields
    )


def test_each_turn_of_a_chat_reuses_all_turns_before_it(asker: Asker, client: OpenAI) -> None:
    messages: list[Any] = []
    num_before = 0
    for question in QUESTIONS:
        messages.append({"role": "user", "content": question})
        prompt = templated(asker, messages)
        answer = chat(client, messages)
        content = answer.choices[0].message.content
        assert content == asker.reference.text(prompt, MAX_TOKENS)
        assert answer.usage.prompt_tokens == len(prompt)
        cached = answer.usage.prompt_tokens_details
        assert (cached.cached_tokens if cached else 0) >= num_before - 1
        num_before = len(prompt) + MAX_TOKENS
        messages.append({"role": "assistant", "content": content})


def test_a_forgotten_chat_is_answered_the_same_from_the_start(asker: Asker, client: OpenAI) -> None:
    """What was generated in earlier turns is prompt here: a cold answer means the same as a warm one."""
    messages: list[Any] = [{"role": "user", "content": QUESTIONS[0]}]
    messages.append({"role": "assistant", "content": chat(client, messages).choices[0].message.content})
    messages.append({"role": "user", "content": QUESTIONS[1]})
    warm = chat(client, messages)
    asker.server.flush_cache()
    cold = chat(client, messages)
    assert warm.usage.prompt_tokens_details.cached_tokens > 0
    assert cold.usage.prompt_tokens_details is None or cold.usage.prompt_tokens_details.cached_tokens == 0
    assert warm.choices[0].message.content == cold.choices[0].message.content


def test_a_streamed_chat_is_the_whole_answer_in_pieces(asker: Asker, client: OpenAI) -> None:
    messages = [{"role": "user", "content": QUESTIONS[0]}]
    stream = chat(client, messages, stream=True)
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert len(pieces) > 2
    assert "".join(pieces) == asker.reference.text(templated(asker, messages), MAX_TOKENS)


def test_a_chat_can_ask_for_several_choices(asker: Asker, client: OpenAI) -> None:
    messages = [{"role": "user", "content": QUESTIONS[2]}]
    expected = asker.reference.text(templated(asker, messages), MAX_TOKENS)
    assert [choice.message.content for choice in chat(client, messages, n=3).choices] == [expected] * 3


def test_log_probabilities_of_a_chat_are_the_references(asker: Asker, client: OpenAI) -> None:
    messages = [{"role": "user", "content": QUESTIONS[3]}]
    found = chat(client, messages, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    steps = asker.reference.steps(templated(asker, messages), MAX_TOKENS)
    for entry, step in zip(found, steps, strict=True):
        best = step.logits.log_softmax(-1).topk(2).values.tolist()
        assert entry.logprob == pytest.approx(best[0], abs=1e-3)
        assert [other.logprob for other in entry.top_logprobs] == pytest.approx(best, abs=1e-3)


def test_an_answer_by_schema_is_valid_json(client: OpenAI) -> None:
    properties = {"tool": {"const": "calculator"}, "digit": {"enum": [1, 2, 3]}}
    schema = {"type": "object", "properties": properties, "required": ["tool", "digit"], "additionalProperties": False}
    format_ = {"type": "json_schema", "json_schema": {"name": "call", "schema": schema, "strict": True}}
    messages = [{"role": "user", "content": "Call the calculator."}]
    answer = client.chat.completions.create(
        model="default", messages=messages, temperature=0, max_tokens=200, response_format=format_
    )
    call = json.loads(answer.choices[0].message.content)
    assert call["tool"] == "calculator"
    assert call["digit"] in (1, 2, 3)


def test_a_completion_is_the_references(asker: Asker, client: OpenAI) -> None:
    texts = ["Once", "Twice upon a time"]
    answer = client.completions.create(model="default", prompt=texts, temperature=0, max_tokens=MAX_TOKENS)
    assert [choice.text for choice in answer.choices] == [
        asker.reference.text(ids_of(text), MAX_TOKENS) for text in texts
    ]


def test_the_model_list_names_the_model(client: OpenAI) -> None:
    assert len(list(client.models.list())) == 1
