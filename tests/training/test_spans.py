"""A span of a prompt is one more turn; what the chat says stays as it is."""

from __future__ import annotations

from random import Random

import pytest

from sglang_speed.training.conversations import Conversation
from sglang_speed.training.spans import with_span


def conversation(prompt_len: int) -> Conversation:
    turns = (range(prompt_len, prompt_len + 5), range(prompt_len + 9, prompt_len + 12))
    return Conversation(tuple(range(prompt_len + 12)), turns)


@pytest.mark.parametrize("prompt_len", [16, 17, 100])
def test_a_span_lies_in_the_first_prompt_with_as_much_before_it(prompt_len: int) -> None:
    before = conversation(prompt_len)
    starts = set()
    for seed in range(1000):
        after = with_span(before, 8, Random(seed))
        span, *turns = after.turns
        assert (after.token_ids, tuple(turns)) == (before.token_ids, before.turns)
        assert len(span) == 8
        assert 8 <= span.start < span.stop <= prompt_len
        starts.add(span.start)
    assert {8, prompt_len - 8} <= starts


@pytest.mark.parametrize(("prompt_len", "num_tokens"), [(15, 8), (1, 8), (100, 0)])
def test_a_prompt_without_room_is_left_alone(prompt_len: int, num_tokens: int) -> None:
    assert with_span(conversation(prompt_len), num_tokens, Random(0)) == conversation(prompt_len)
