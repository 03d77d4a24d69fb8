"""Spans of prompts, learned as if the model had said them: more to learn from a chat than its answers.

Owns which span is taken. The teacher says what follows each of its tokens, so nothing has to be written for it; what
comes before the span is the prompt, as for any turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from random import Random

from sglang_speed.errors import ConfigError
from sglang_speed.lab.common.chat import Conversation


def with_spans(
    conversations: Sequence[Conversation], numbers: Iterable[int], num_tokens: int, draw: Random
) -> list[Conversation]:
    """All conversations, those of `numbers` with a span; ConfigError where no prompt has room for one."""
    spans = {number: with_span(conversations[number], num_tokens, draw) for number in numbers}
    if all(conversations[number] == conversation for number, conversation in spans.items()):
        raise ConfigError(
            f"span_tokens={num_tokens} fits in no prompt: a span has as many tokens of the prompt before it; lower it "
            "to at most half of the prompts, or leave it out"
        )
    return [spans.get(number, conversation) for number, conversation in enumerate(conversations)]


def with_span(conversation: Conversation, num_tokens: int, draw: Random) -> Conversation:
    """The conversation with one more turn before the others: a span of its first prompt, wherever it is drawn.

    Unchanged where there is no room for a span with as many tokens before it.
    """
    prompt_len = conversation.turns[0].start
    if prompt_len < 2 * num_tokens:
        return conversation
    start = draw.randint(num_tokens, prompt_len - num_tokens)
    return replace(conversation, turns=(range(start, start + num_tokens), *conversation.turns))
