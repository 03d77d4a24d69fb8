"""Checks before anything long begins: chats that could not be trained on after they are answered.

Owns the limits; the chat format checks the form of chats.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace

from sglang_speed.errors import ConfigError
from sglang_speed.lab.common.chat import Chat, ChatFormat, is_unwritten
from sglang_speed.lab.training.answers import is_open, with_answer
from sglang_speed.lab.training.progress import count
from sglang_speed.lab.training.settings import Objective, Settings

_PLACEHOLDER = "?"


def refuse_several_processes() -> None:
    """ConfigError under `torchrun` and `accelerate launch`: each process would write the same files."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(f"WORLD_SIZE={os.environ['WORLD_SIZE']}: training runs in one process, on one device")


def checked_chats(chats: Iterable[Chat], chat_format: ChatFormat, settings: Settings, context_len: int) -> list[Chat]:
    """The chats; ConfigError for the first that cannot be trained on, or if all are held out.

    context_len: of the model; the limit for answered chats.
    """
    kept = list(chats)
    for chat in kept:
        if settings.objective == Objective.SFT and is_open(chat):
            raise ConfigError(
                f"{chat.origin} has no answer at its end, and supervised training needs given answers: add the answer, "
                "or train with --objective distil, where the model writes it"
            )
        _require_short(chat, chat_format, settings, min(settings.max_tokens, context_len))
    num_held_out(len(kept), settings)
    return kept


def num_held_out(num_chats: int, settings: Settings) -> int:
    """The number of held-out chats; ConfigError if none is left to train on."""
    num = round(settings.held_out * num_chats)
    if num == num_chats:
        raise ConfigError(
            f"held_out={settings.held_out} of {count(num_chats, 'chat')} leaves none to train on: give more chats, or "
            "lower it"
        )
    return num


def _require_short(chat: Chat, chat_format: ChatFormat, settings: Settings, limit: int) -> None:
    messages = with_answer(chat.messages)
    written = [{**message, "content": _PLACEHOLDER} if is_unwritten(message) else message for message in messages]
    num_open = sum(map(is_unwritten, messages))
    num_given = len(chat_format.conversation(replace(chat, messages=written)).token_ids)
    if num_given + num_open * settings.answer_tokens > limit:
        answers = f" and {count(num_open, 'message')} to be written" if num_open else ""
        raise ConfigError(
            f"{chat.origin} has {num_given} tokens{answers}, and at most {limit} fit: shorten or remove it, lower "
            "--answer-tokens, or raise --max-tokens up to the model's context"
        )
