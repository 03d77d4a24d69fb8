"""Chats as a model reads them: token ids, and which of them each assistant turn says.

Owns the JSONL format and what a chat template makes of it; a single message is `messages`' business. Must not know what
is done with a conversation.

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
    """One line of a JSONL file. origin: where it stands, for messages."""

    messages: list[Message]
    tools: list[dict[str, Any]] | None = None
    origin: str = "chat"


@dataclass(frozen=True)
class Conversation:
    """A chat as token ids.

    turns: positions that each assistant turn says, its end-of-turn token included; everything before the first
        position of a turn is that turn's prompt.
    """

    token_ids: tuple[int, ...]
    turns: tuple[range, ...]


class ChatFormat:
    """A checkpoint's tokenizer and chat template. stop_ids: the tokens with which the model can end a turn."""

    def __init__(self, tokenizer: Any, stop_ids: Sequence[int]) -> None:
        self.tokenizer = tokenizer
        self.stop_ids = frozenset(stop_ids)
        self._shown: set[tuple[str, ...]] = set()

    @classmethod
    def of_checkpoint(cls, directory: Path) -> ChatFormat:
        """ConfigError where the checkpoint has no tokenizer, no chat template or no end-of-turn token."""
        from transformers import AutoTokenizer, GenerationConfig

        import sglang_speed.reference  # noqa: F401  AutoTokenizer reads config.json, whose model type it must know

        try:
            tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
            has_settings = (directory / "generation_config.json").is_file()
            settings = GenerationConfig.from_pretrained(directory) if has_settings else None
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{directory} has no tokenizer that can be read ({str(error).splitlines()[0]}): complete the download"
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
        """The prompt of an assistant turn that follows `chat.messages`, as a server reads it."""
        return self.encode(self.render(chat, len(chat.messages), answer_follows=True))

    def text(self, ids: Sequence[int]) -> str:
        """An answer as its reader sees it."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text.strip()

    @property
    def digest(self) -> str:
        """The same for checkpoints whose token ids and prompts mean the same."""
        return digest_of([sorted(self.tokenizer.get_vocab().items()), self.tokenizer.chat_template])

    def conversation(self, chat: Chat) -> Conversation:
        """All turns of a chat in one sequence of token ids; ConfigError where its template does not allow that.

        Text before a turn and the turn itself are tokenized apart, as in serving, where the model continues a prompt.
        """
        text, ids, turns = "", [], []
        for index, message in enumerate(chat.messages):
            if message["role"] != "assistant":
                continue
            if not index:
                raise ConfigError(f"{chat.origin} begins with an answer: put what is answered before it")
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
        """The text of a chat's first messages. answer_follows: with the head of an assistant turn after them."""
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
        """Token ids of text as it is, without a BoS of the tokenizer's own."""
        return self.tokenizer.encode(text, add_special_tokens=False)

    def _require_shown(self, chat: Chat) -> None:
        """ConfigError where the template leaves out a message: it would be learned without what it answers.

        Asked once for each order of roles, on which that depends.
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
                    f"{chat.origin}, message {number}: the model's chat template leaves out what role {kind!r} says "
                    "here, so that the model would never see it: give it another role, or remove it"
                )
        self._shown.add(kinds)

    def _added(self, before: str, after: str, chat: Chat) -> str:
        if not after.startswith(before):
            raise ConfigError(
                f"{chat.origin}: the model's chat template writes earlier turns anew when a later one is added, so "
                "that the turns have no text in common: give each turn as a chat of its own"
            )
        return after[len(before) :]

    def _up_to_stop(self, answer: str, chat: Chat) -> str:
        """What the model says of the text that an answer adds: up to its end-of-turn token."""
        stops = self.tokenizer.convert_ids_to_tokens(sorted(self.stop_ids))
        ends = [answer.index(stop) + len(stop) for stop in stops if stop in answer]
        if not ends:
            raise ConfigError(
                f"{chat.origin}: the chat template ends an assistant turn with none of the end-of-turn tokens {stops}: "
                "set eos_token_id in generation_config.json to the token with which it does"
            )
        return answer[: min(ends)]


def _marked(message: Message, mark: str) -> Message:
    """The message with a text that can be found again; of one with tool calls the name of what is called."""
    if not message.get("tool_calls"):
        return {**message, "content": mark}
    first, *others = message["tool_calls"]
    return {**message, "tool_calls": [{**first, "function": {**first["function"], "name": mark}}, *others]}


def read_conversations(path: Path, chat_format: ChatFormat, max_tokens: int | None = None) -> list[Conversation]:
    """Every chat of a JSONL file; ConfigError with the line for one that cannot be learned from.

    max_tokens: the longest conversation that is accepted.
    """
    conversations = []
    for chat in read_chats(path):
        _require_answers(chat)
        conversation = chat_format.conversation(chat)
        if max_tokens is not None and len(conversation.token_ids) > max_tokens:
            raise ConfigError(
                f"{chat.origin} has {len(conversation.token_ids)} tokens, and at most {max_tokens} are taken: shorten "
                "or remove it, or raise --max-tokens"
            )
        conversations.append(conversation)
    return conversations


def read_chats(path: Path) -> Iterator[Chat]:
    """The chats of a JSONL file; ConfigError with the line for anything else. Empty lines are skipped."""
    # not splitlines, which ends lines at characters that JSON leaves as they are inside a string
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
    """Some data sets keep the schemas as a text of JSON; an empty one means none."""
    try:
        return json.loads(text) if text.strip() else None
    except ValueError as error:
        raise ConfigError(f"{origin} has tools that are not JSON ({error}): write a list of JSON schemas") from error


def _require_answers(chat: Chat) -> None:
    said = [message for message in chat.messages if message["role"] == "assistant"]
    if not said:
        raise ConfigError(f"{chat.origin} has no assistant message: there is nothing to learn; remove it or answer it")
    if any(map(is_unwritten, chat.messages)):
        raise ConfigError(f"{chat.origin} has a message without content: nobody has written it; write it or remove it")
