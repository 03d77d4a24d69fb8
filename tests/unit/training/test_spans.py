"""A span of a prompt is one more turn; what the chat says stays as it is."""

from __future__ import annotations

from random import Random

import pytest

from sglang_speed.errors import ConfigError
from sglang_speed.lab.common.chat import Conversation
from sglang_speed.lab.training.spans import with_span, with_spans


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


@pytest.mark.parametrize("prompt_len", [15, 1])
def test_a_prompt_without_room_is_left_alone(prompt_len: int) -> None:
    assert with_span(conversation(prompt_len), 8, Random(0)) == conversation(prompt_len)


def test_only_the_chosen_conversations_get_a_span() -> None:
    given = [conversation(16), conversation(15), conversation(16), conversation(16)]
    found = with_spans(given, [0, 1, 3], 8, Random(0))
    assert [len(one.turns) for one in found] == [3, 2, 2, 3]
    assert (found[1], found[2]) == (given[1], given[2])


def test_spans_that_fit_in_no_prompt_are_refused() -> None:
    with pytest.raises(ConfigError, match="span_tokens=9 fits in no prompt"):
        with_spans([conversation(16), conversation(17), conversation(18)], [0, 1], 9, Random(0))
