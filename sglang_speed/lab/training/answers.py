"""Lets the model write the open messages of chats: assistant answers, and user questions.

Owns the file of answered chats, to which lines are appended, so that an interrupted run continues. The caller owns the
server. A message with `"content": null` is open; a chat that ends with a user turn has an open answer after it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

from sglang_speed.checkpoints.atomic import new_file
from sglang_speed.errors import ConfigError
from sglang_speed.lab.common.chat import Chat, ChatFormat, Message, is_unwritten, read_chats
from sglang_speed.lab.common.client import Client, RequestFailed
from sglang_speed.lab.common.local_server import ServerFailed

_MARK = "\x02question\x03"


@dataclass(frozen=True)
class Sampling:
    """How open messages are written. max_tokens: of one message. concurrency: chats at a time."""

    temperature: float = 0.8
    max_tokens: int = 256
    concurrency: int = 32


def answer_all(
    chats: Sequence[Chat], path: Path, url: str, chat_format: ChatFormat, sampling: Sampling
) -> Iterator[int]:
    """Write each chat with its open messages filled to `path`, in the end in order; yields how many are done.

    Chats from an earlier run are kept, so `chats` must be the same as then.
    """
    lines = _answered(path)
    yield len(lines)
    left = [number for number in range(len(chats)) if number not in lines]
    client, pool = Client(url), ThreadPoolExecutor(sampling.concurrency)
    writing = {pool.submit(fill, chats[number], client, chat_format, sampling): number for number in left}
    try:
        with path.open("a", encoding="utf-8") as file:
            for done, future in enumerate(as_completed(writing), 1):
                file.write(_line(writing[future], future.result()))
                file.flush()
                yield len(lines) + done
        _put_in_order(path)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # running requests end when the caller stops the server


def _line(number: int, chat: Chat) -> str:
    tools = {} if chat.tools is None else {"tools": chat.tools}
    return json.dumps({"number": number, "messages": chat.messages, **tools}) + "\n"


def _put_in_order(path: Path) -> None:
    """Sort, so that the held-out chats do not depend on timing; kept states rely on the order too."""
    lines = path.read_bytes().splitlines(keepends=True)
    in_order = sorted(lines, key=lambda line: int(json.loads(line)["number"]))
    if in_order != lines:
        with new_file(path) as ordered:
            ordered.write_bytes(b"".join(in_order))


def fill(chat: Chat, client: Client, chat_format: ChatFormat, sampling: Sampling) -> Chat:
    """Write every open message of a chat, in order."""
    filled: list[Message] = []
    for message in with_answer(chat.messages):
        if is_unwritten(message):
            before = replace(chat, messages=filled)
            message = {**message, "content": _write(before, message["role"], client, chat_format, sampling)}
        filled.append(message)
    return replace(chat, messages=filled)


def with_answer(messages: list[Message]) -> list[Message]:
    """The messages, with an open answer appended if the last one is not the assistant's."""
    open_answer = {"role": "assistant", "content": None}
    return messages if messages[-1]["role"] == "assistant" else [*messages, open_answer]


def _write(before: Chat, role: str, client: Client, chat_format: ChatFormat, sampling: Sampling) -> str:
    prompt = chat_format.prompt_ids(before) if role == "assistant" else question_ids(before, role, chat_format)
    stops = sorted(chat_format.stop_ids)
    try:
        return client.write(prompt, sampling.max_tokens, temperature=sampling.temperature, stop_token_ids=stops)
    except RequestFailed as error:
        raise ConfigError(
            f"{before.origin}: the server refused a prompt of {len(prompt)} tokens ({error}): shorten or remove the "
            "chat"
        ) from error
    except ServerFailed as error:
        raise ConfigError(f"{error}: give the address of a running SGLang server") from error


def question_ids(before: Chat, role: str, chat_format: ChatFormat) -> list[int]:
    """The prompt for a message of `role`: the chat template up to that message's text.

    After only the header of a user turn, an instruction-tuned model writes a question like those it was tuned on
    (Magpie, arXiv 2406.08464).
    """
    marked = replace(before, messages=[*before.messages, {"role": role, "content": _MARK}])
    head, mark, _ = chat_format.render(marked, len(marked.messages), answer_follows=False).partition(_MARK)
    if not mark:
        raise ConfigError(
            f"{before.origin}: the chat template changes the text of messages, so the model cannot write questions"
        )
    return chat_format.encode(head)


def _answered(path: Path) -> set[int]:
    """Numbers of the chats in the file; an incomplete last line of a killed run is removed."""
    if not path.exists():
        return set()
    lines = path.read_bytes()
    whole_len = lines.rfind(b"\n") + 1
    os.truncate(path, whole_len)
    return {json.loads(line)["number"] for line in lines[:whole_len].splitlines()}


def is_open(chat: Chat) -> bool:
    """Whether the model has to write a message of this chat."""
    return any(map(is_unwritten, with_answer(chat.messages)))


def read_answered(path: Path, num_chats: int) -> Iterator[Chat]:
    """The answered chats; ConfigError if some are missing."""
    if len(_answered(path)) != num_chats:
        raise ConfigError(f"{path} has {len(_answered(path))} of {num_chats} answered chats: run the command again")
    return read_chats(path)
