"""Lets the model write what a chat leaves open: the answers of its assistant turns, and a user's questions.

Owns the file of answered chats, which grows line by line, so that a run that was cut short goes on. The server is its
caller's. A message with `"content": null` is open; a chat that ends with a user turn has an open answer after it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sglang_speed.errors import ConfigError
from sglang_speed.training.conversations import Chat, ChatFormat, Message, read_chats

REQUEST_SECONDS = 3600
_MARK = "\x02question\x03"


@dataclass(frozen=True)
class Sampling:
    """How open messages are written. max_tokens: of one message; concurrency: chats at once."""

    temperature: float = 0.8
    max_tokens: int = 256
    concurrency: int = 32


def answer_all(
    chats: Sequence[Chat], path: Path, url: str, chat_format: ChatFormat, sampling: Sampling
) -> Iterator[int]:
    """Write each chat with its open messages filled to `path`; yields how many are there after each.

    Chats that a run before has written are kept, so `chats` must be the same as then.
    """
    lines = _answered(path)
    yield len(lines)
    left = [number for number in range(len(chats)) if number not in lines]
    with ThreadPoolExecutor(sampling.concurrency) as pool, path.open("a", encoding="utf-8") as file:
        writing = {pool.submit(fill, chats[number], url, chat_format, sampling): number for number in left}
        try:
            for done, future in enumerate(as_completed(writing), 1):
                chat = future.result()
                tools = {} if chat.tools is None else {"tools": chat.tools}
                line = {"number": writing[future], "messages": chat.messages, **tools}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                file.flush()
                yield len(lines) + done
        finally:
            pool.shutdown(cancel_futures=True)


def fill(chat: Chat, url: str, chat_format: ChatFormat, sampling: Sampling) -> Chat:
    """The chat with every open message written, in order."""
    filled: list[Message] = []
    for message in _with_answer(chat.messages):
        if message["content"] is None:
            before = replace(chat, messages=filled)
            message = {**message, "content": _write(before, message["role"], url, chat_format, sampling)}
        filled.append(message)
    return replace(chat, messages=filled)


def _with_answer(messages: list[Message]) -> list[Message]:
    open_answer = {"role": "assistant", "content": None}
    return messages if messages[-1]["role"] == "assistant" else [*messages, open_answer]


def _write(before: Chat, role: str, url: str, chat_format: ChatFormat, sampling: Sampling) -> str:
    import requests

    prompt = chat_format.prompt_ids(before) if role == "assistant" else question_ids(before, role, chat_format)
    response = requests.post(
        f"{url}/generate",
        json={
            "input_ids": prompt,
            "sampling_params": {
                "temperature": sampling.temperature,
                "max_new_tokens": sampling.max_tokens,
                "stop_token_ids": sorted(chat_format.stop_ids),
            },
        },
        timeout=REQUEST_SECONDS,
    )
    if not response.ok:
        raise ConfigError(
            f"{before.origin}: the server does not answer a prompt of {len(prompt)} tokens ({response.text[:300]}): "
            "shorten or remove the chat"
        )
    answer: dict[str, Any] = response.json()
    return str(answer["text"]).strip()


def question_ids(before: Chat, role: str, chat_format: ChatFormat) -> list[int]:
    """The prompt after which the model writes a message of `role`: the chat template up to that message's text.

    An instruction-tuned model that is shown only the head of a user's turn writes a question of the kind it was
    tuned on (Magpie, arXiv 2406.08464).
    """
    marked = replace(before, messages=[*before.messages, {"role": role, "content": _MARK}])
    head, mark, _ = chat_format.render(marked, len(marked.messages), answer_follows=False).partition(_MARK)
    if not mark:
        raise ConfigError(
            f"{before.origin}: the chat template changes a message's text, so that no question can be written"
        )
    return chat_format.encode(head)


def _answered(path: Path) -> set[int]:
    """Numbers of the chats in the file; a line that a killed run left half written is cut off."""
    if not path.exists():
        return set()
    text = path.read_text(encoding="utf-8", errors="replace")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    return {json.loads(line)["number"] for line in whole.splitlines()}


def is_open(chat: Chat) -> bool:
    """Whether the model has to write something in this chat."""
    return chat.messages[-1]["role"] != "assistant" or any(m["content"] is None for m in chat.messages)


def read_answered(path: Path, num_chats: int) -> Iterator[Chat]:
    """The answered chats; ConfigError where some are missing."""
    if len(_answered(path)) != num_chats:
        raise ConfigError(f"{path} has {len(_answered(path))} of {num_chats} answered chats: run the command again")
    return read_chats(path)
