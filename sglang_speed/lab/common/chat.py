"""Chats as token ids, with the positions of each assistant turn.

Owns the JSONL format and the use of chat templates; `messages` parses single messages. Must not know what conversations
are used for.

A line is `{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}, ...]}`, with
`"tools": [...]` beside it where the chat template takes JSON schemas; or ShareGPT's form of it,
`{"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}, ...]}`. The file may be gzip.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sglang_speed.errors import ConfigError
from sglang_speed.lab.common.data import read_text
from sglang_speed.lab.common.digest import digest_of
from sglang_speed.lab.common.messages import Message, is_unwritten, messages_of

__all__ = ["Chat", "ChatFormat", "Conversation", "Message", "is_unwritten", "read_chats", "read_conversations"]


@dataclass(frozen=True)
class Chat:
    """One line of a JSONL file. origin: its place, for error messages."""

    messages: list[Message]
    tools: list[dict[str, Any]] | None = None
    origin: str = "chat"


@dataclass(frozen=True)
class Conversation:
    """A chat as token ids.

    turns: token positions of each assistant turn, its end-of-turn token included. All tokens before a turn are its
        prompt.
    """

    token_ids: tuple[int, ...]
    turns: tuple[range, ...]


class ChatFormat:
    """A checkpoint's tokenizer and chat template. stop_ids: tokens that end a turn."""

    def __init__(self, tokenizer: Any, stop_ids: Sequence[int]) -> None:
        self.tokenizer = tokenizer
        self.stop_ids = frozenset(stop_ids)
        self._shown: set[tuple[str, ...]] = set()

    @classmethod
    def of_checkpoint(cls, directory: Path) -> ChatFormat:
        """Raises ConfigError for a checkpoint without tokenizer, chat template or end-of-turn token."""
        from transformers import AutoTokenizer, GenerationConfig

        import sglang_speed.reference  # noqa: F401  registers the model type, which AutoTokenizer reads in config.json

        try:
            tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
            has_settings = (directory / "generation_config.json").is_file()
            settings = GenerationConfig.from_pretrained(directory) if has_settings else None
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{directory} has no readable tokenizer ({str(error).splitlines()[0]}): complete the download"
            ) from error
        if not tokenizer.chat_template:
            raise ConfigError(
                f"{directory} has no chat template: chats need one; take an instruction-tuned model, or put the "
                "template into chat_template.jinja"
            )
        told = None if settings is None else settings.eos_token_id
        stop_ids = {tokenizer.eos_token_id, *(told if isinstance(told, list) else [told])} - {None}
        if not stop_ids:
            raise ConfigError(f"{directory} names no end-of-turn token: set eos_token_id in generation_config.json")
        return cls(tokenizer, sorted(stop_ids))

    def prompt_ids(self, chat: Chat) -> list[int]:
        """The prompt of the assistant turn after `chat.messages`, as served."""
        return self.encode(self.render(chat, len(chat.messages), answer_follows=True))

    def text(self, ids: Sequence[int]) -> str:
        """Decode an answer, without special tokens and surrounding whitespace."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text.strip()

    @property
    def digest(self) -> str:
        """Equal for checkpoints with the same vocabulary and chat template."""
        return digest_of([sorted(self.tokenizer.get_vocab().items()), self.tokenizer.chat_template])

    def conversation(self, chat: Chat) -> Conversation:
        """All turns of a chat in one token sequence; ConfigError if the template does not allow that.

        A turn and the text before it are tokenized separately, as in serving, where the model continues a prompt.
        """
        text, ids, turns = "", [], []
        for index, message in enumerate(chat.messages):
            if message["role"] != "assistant":
                continue
            if not index:
                raise ConfigError(f"{chat.origin} begins with an answer: put the question before it")
            prompt = self.render(chat, index, answer_follows=True)
            ids += self.encode(self._added(text, prompt, chat))
            answered = self.render(chat, index + 1, answer_follows=False)
            said = self._up_to_stop(self._added(prompt, answered, chat), chat)
            said_ids = self.encode(said)
            turns.append(range(len(ids), len(ids) + len(said_ids)))
            ids += said_ids
            text = prompt + said
        self._require_shown(chat)
        return Conversation(tuple(ids), tuple(turns))

    def render(self, chat: Chat, num_messages: int, *, answer_follows: bool) -> str:
        """The text of a chat's first messages. answer_follows: end with the header of an assistant turn."""
        from jinja2 import TemplateError

        messages = chat.messages[:num_messages]
        try:
            text: str = self.tokenizer.apply_chat_template(
                messages, tools=chat.tools, tokenize=False, add_generation_prompt=answer_follows
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise ConfigError(f"{chat.origin}: the model's chat template refuses these messages: {error}") from error
        return text

    def encode(self, text: str) -> list[int]:
        """Token ids of the text, without an automatic BoS."""
        return self.tokenizer.encode(text, add_special_tokens=False)

    def _require_shown(self, chat: Chat) -> None:
        """ConfigError if the template drops a message: the model would learn an answer without its question.

        Depends on the sequence of roles, so it is checked once for each.
        """
        kinds = tuple(f"{one['role']} calls" if one.get("tool_calls") else one["role"] for one in chat.messages)
        if kinds in self._shown:
            return
        marks = [str(7_000_000 + number) for number in range(len(kinds))]  # letters could change their case
        messages = [_marked(one, mark) for one, mark in zip(chat.messages, marks, strict=True)]
        text = self.render(replace(chat, messages=messages), len(messages), answer_follows=False)
        for number, (kind, mark) in enumerate(zip(kinds, marks, strict=True), 1):
            if mark not in text:
                raise ConfigError(
                    f"{chat.origin}, message {number}: the model's chat template drops this message of role {kind!r}: "
                    "give it another role, or remove it"
                )
        self._shown.add(kinds)

    def _added(self, before: str, after: str, chat: Chat) -> str:
        if not after.startswith(before):
            raise ConfigError(
                f"{chat.origin}: the model's chat template rewrites earlier turns when a later one is added: give each "
                "turn as a separate chat"
            )
        return after[len(before) :]

    def _up_to_stop(self, answer: str, chat: Chat) -> str:
        """Cut the rendered answer after its end-of-turn token."""
        stops = self.tokenizer.convert_ids_to_tokens(sorted(self.stop_ids))
        ends = [answer.index(stop) + len(stop) for stop in stops if stop in answer]
        if not ends:
            raise ConfigError(
                f"{chat.origin}: the chat template ends assistant turns with none of the end-of-turn tokens {stops}: "
                "set eos_token_id in generation_config.json to the token that it uses"
            )
        return answer[: min(ends)]


def _marked(message: Message, mark: str) -> Message:
    """The message with `mark` as its content, or as the function name of its first tool call."""
    if not message.get("tool_calls"):
        return {**message, "content": mark}
    first, *others = message["tool_calls"]
    return {**message, "tool_calls": [{**first, "function": {**first["function"], "name": mark}}, *others]}


def read_conversations(path: Path, chat_format: ChatFormat, max_tokens: int | None = None) -> list[Conversation]:
    """Tokenize every chat of a JSONL file; ConfigError names the line of one that cannot be trained on.

    max_tokens: the longest accepted conversation.
    """
    conversations = []
    for chat in read_chats(path):
        _require_answers(chat)
        conversation = chat_format.conversation(chat)
        if max_tokens is not None and len(conversation.token_ids) > max_tokens:
            raise ConfigError(
                f"{chat.origin} has {len(conversation.token_ids)} tokens, more than {max_tokens}: shorten or remove "
                "it, or raise --max-tokens"
            )
        conversations.append(conversation)
    return conversations


def read_chats(path: Path) -> Iterator[Chat]:
    """The chats of a JSONL file; ConfigError names an invalid line. Empty lines are skipped."""
    # not splitlines: it also splits at characters that JSON allows in strings
    lines = read_text(path).split("\n")
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise ConfigError(f'{path} has no chats: write one JSON object a line, {{"messages": [...]}}')
    for number, line in numbered:
        yield _parse(line, f"{path}, line {number}")


def _parse(line: str, origin: str) -> Chat:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{origin} is not JSON ({error}): write one object a line") from error
    if not isinstance(value, dict):
        raise ConfigError(f'{origin} has no messages: write {{"messages": [{{"role": ..., "content": ...}}, ...]}}')
    tools = value.get("tools")
    if isinstance(tools, str):
        tools = _parsed_tools(tools, origin)
    if tools is not None and not isinstance(tools, list):
        raise ConfigError(f"{origin} has tools={tools!r}, which is not a list: write a list of JSON schemas")
    return Chat(messages_of(value, origin), tools, origin)


def _parsed_tools(text: str, origin: str) -> Any:
    """Some data sets store the schemas as a JSON string; an empty one means no tools."""
    try:
        return json.loads(text) if text.strip() else None
    except ValueError as error:
        raise ConfigError(f"{origin} has tools that are not JSON ({error}): write a list of JSON schemas") from error


def _require_answers(chat: Chat) -> None:
    said = [message for message in chat.messages if message["role"] == "assistant"]
    if not said:
        raise ConfigError(f"{chat.origin} has no assistant message: there is nothing to learn; remove it or answer it")
    if any(map(is_unwritten, chat.messages)):
        raise ConfigError(f"{chat.origin} has a message without content: write it or remove it")
