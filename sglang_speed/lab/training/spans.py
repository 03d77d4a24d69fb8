"""Spans of prompts, trained like answers, to learn more from each chat.

The teacher predicts what follows each token of a span, so nothing has to be generated. All tokens before the span are
its prompt, as for any turn.
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
    """All conversations, those of `numbers` with a span; ConfigError if no prompt has room for one."""
    spans = {number: with_span(conversations[number], num_tokens, draw) for number in numbers}
    if all(conversations[number] == conversation for number, conversation in spans.items()):
        raise ConfigError(
            f"span_tokens={num_tokens} fits in no prompt, which must be at least twice as long: lower it, or omit it"
        )
    return [spans.get(number, conversation) for number, conversation in enumerate(conversations)]


def with_span(conversation: Conversation, num_tokens: int, draw: Random) -> Conversation:
    """The conversation with a random span of its first prompt as an additional first turn.

    Unchanged if the prompt has no room for a span with at least as many tokens before it.
    """
    prompt_len = conversation.turns[0].start
    if prompt_len < 2 * num_tokens:
        return conversation
    start = draw.randint(num_tokens, prompt_len - num_tokens)
    return replace(conversation, turns=(range(start, start + num_tokens), *conversation.turns))
