"""Spans of prompts, learned as if the model had said them: more to learn from a chat than its answers.

Owns which span is taken. The teacher says what follows each of its tokens, so nothing has to be written for it; what
comes before the span is the prompt, as for any turn.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

from sglang_speed.training.conversations import Conversation


def with_span(conversation: Conversation, num_tokens: int, draw: Random) -> Conversation:
    """The conversation with one more turn before the others: a span of its first prompt, wherever it is drawn.

    Unchanged where there is no room for a span with as many tokens before it.
    """
    prompt_len = conversation.turns[0].start
    if num_tokens == 0 or prompt_len < 2 * num_tokens:
        return conversation
    start = draw.randint(num_tokens, prompt_len - num_tokens)
    return replace(conversation, turns=(range(start, start + num_tokens), *conversation.turns))
