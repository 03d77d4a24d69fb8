"""Parsing and checking of chat messages, in OpenAI's and ShareGPT's form.

An open message is one that the model will write. `chat` applies chat templates.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sglang_speed.errors import ConfigError

Message = dict[str, Any]

ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython")
"""The roles of the chat API, and `ipython`, Llama 3's name for tool results."""

_SHARE_GPT_ROLES = {
    "system": "system",
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "model"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation"), "tool"),
}
_MODELS_OWN = "number"
"""A key of lines that the model answered: there, an empty message is the model's answer and no mistake."""


def messages_of(line: Mapping[str, Any], origin: str) -> list[Message]:
    """The messages of a line, in the form that chat templates take; ConfigError for invalid ones."""
    given = _given(line, origin)
    messages = [
        _message(message, f"{origin}, message {number}", may_be_empty=_MODELS_OWN in line)
        for number, message in enumerate(given, 1)
        if message != {"role": "system", "content": ""}
    ]
    _require_known_questions(messages, origin)
    return messages


def is_unwritten(message: Message) -> bool:
    """Whether the model has to write a message: it has neither content nor tool calls."""
    return message.get("content") is None and not message.get("tool_calls")


def _given(line: Mapping[str, Any], origin: str) -> list[Any]:
    found = [key for key in ("messages", "conversations") if line.get(key)]
    if not found or not isinstance(line[found[0]], list):
        raise ConfigError(f'{origin} has no messages: write {{"messages": [{{"role": ..., "content": ...}}, ...]}}')
    if len(found) > 1:
        raise ConfigError(f"{origin} has both messages and conversations: keep one of them")
    given = [
        _from_share_gpt(message, f"{origin}, message {number}") for number, message in enumerate(line[found[0]], 1)
    ]
    system = line.get("system") or line.get("system_prompt")
    return [{"role": "system", "content": system}, *given] if system else given


def _from_share_gpt(message: Any, origin: str) -> Any:
    """Convert `{"from": "human", "value": ...}` to role and content; return other messages unchanged."""
    if not isinstance(message, dict) or "from" not in message:
        return message
    name = message["from"]
    if not isinstance(name, str) or name not in _SHARE_GPT_ROLES:
        raise ConfigError(f"{origin}: from={name!r} is not one of {', '.join(_SHARE_GPT_ROLES)}: write one of these")
    rest = {key: value for key, value in message.items() if key not in ("from", "value")}
    return {"role": _SHARE_GPT_ROLES[name], "content": message.get("value", ""), **rest}


def _message(given: Any, origin: str, *, may_be_empty: bool) -> Message:
    if not isinstance(given, dict) or "role" not in given:
        raise ConfigError(f"{origin}: {_short(given)} is not a message: it needs a role and a content")
    if given["role"] not in ROLES:
        raise ConfigError(f"{origin}: role={given['role']!r} is not one of {', '.join(ROLES)}: write one of these")
    # tables of mixed messages have null in unused columns
    message = {key: value for key, value in given.items() if value not in (None, [])}
    if given["role"] == "assistant" and message.get("weight", 1) == 0:
        raise ConfigError(
            f"{origin}: weight=0 excludes an answer from training, but every answer of a chat is learned: remove the "
            "chat, or cut it before this answer"
        )
    message["content"] = _content(given, origin, may_be_empty=may_be_empty)
    if "tool_calls" in message:
        message["tool_calls"] = _tool_calls(message, origin)
    return message


def _content(given: Mapping[str, Any], origin: str, *, may_be_empty: bool) -> str | None:
    """The text of a message; None if the model is to write it."""
    role, calls = given["role"], given.get("tool_calls")
    if "content" not in given and not calls:
        raise ConfigError(
            f'{origin}: role {role!r} has no content: write it, or "content": null to let the model write the answer'
        )
    content = given.get("content")
    if isinstance(content, list):
        content = _joined(content, origin)
    if content is None and role in ("user", "assistant"):
        return None
    if not isinstance(content, str):
        raise ConfigError(f"{origin}: content={_short(content)} of role {role!r} is not a string: write text")
    # a tool may return nothing
    if not content.strip() and not (calls or may_be_empty or _SHARE_GPT_ROLES.get(role, role) in ("tool", "ipython")):
        raise ConfigError(f"{origin}: content={content!r} of role {role!r} is empty: write text, or remove the message")
    return content


def _joined(parts: Sequence[Any], origin: str) -> str:
    """The text of OpenAI's content parts, joined as the server does."""
    for part in parts:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ConfigError(
                f'{origin}: the content part {_short(part)} is not {{"type": "text", "text": ...}}: remove it; the '
                "model reads text only"
            )
    return " ".join(part["text"] for part in parts)


def _tool_calls(message: Message, origin: str) -> list[dict[str, Any]]:
    """The calls with their arguments as objects, as the server passes them to the chat template."""
    if message["role"] != "assistant":
        raise ConfigError(
            f"{origin}: role {message['role']!r} has tool_calls: only the assistant calls tools; move them"
        )
    return [_tool_call(call, origin) for call in message["tool_calls"]]


def _tool_call(call: Any, origin: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    function = function if isinstance(function, dict) else {}
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            arguments = None
    if not isinstance(arguments, dict) or not isinstance(function.get("name"), str):
        raise ConfigError(
            f"{origin}: {_short(call)} is not a tool call: write "
            '{"type": "function", "function": {"name": ..., "arguments": {...}}}'
        )
    return {**call, "function": {**function, "arguments": arguments}}


def _require_known_questions(messages: Sequence[Message], origin: str) -> None:
    """ConfigError for a user turn without content, unless the model writes all turns, user and assistant in turn."""
    open_turns = [number for number, one in enumerate(messages, 1) if one["role"] == "user" and is_unwritten(one)]
    in_turns = [one["role"] for one in messages] == ["user", "assistant"] * (len(messages) // 2)
    if open_turns and not (in_turns and all(map(is_unwritten, messages))):
        raise ConfigError(
            f"{origin}, message {open_turns[0]}: role 'user' has no content: write the question; the model writes user "
            'turns only if all messages have "content": null, user and assistant alternating'
        )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
