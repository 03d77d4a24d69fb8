"""The messages of a line of chats: which forms are read, and what is said of one that nothing could be learned from.

Owns the rules for a message and for open ones, and ShareGPT's names for the same. What a chat template makes of them is
`chat`'s business.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sglang_speed.errors import ConfigError

Message = dict[str, Any]

ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython")
"""What a server's chat API takes, and Llama 3's own name for the result of a tool."""

_SHARE_GPT_ROLES = {
    "system": "system",
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "model"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation"), "tool"),
}
_MODELS_OWN = "number"
"""A key of the lines that the model answered: an empty message there is what it said, and no mistake of a person."""


def messages_of(line: Mapping[str, Any], origin: str) -> list[Message]:
    """The messages of a line, in the form that chat templates take; ConfigError for what cannot be learned from."""
    given = _given(line, origin)
    messages = [
        _message(message, f"{origin}, message {number}", may_be_empty=_MODELS_OWN in line)
        for number, message in enumerate(given, 1)
        if message != {"role": "system", "content": ""}
    ]
    _require_known_questions(messages, origin)
    return messages


def is_unwritten(message: Message) -> bool:
    """Whether a message is left to the model: it has no content, and no tool calls in its place."""
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
    """`{"from": "human", "value": ...}` as a message with role and content; others as they are."""
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
    # tables of several kinds of messages have null in the columns of the others
    message = {key: value for key, value in given.items() if value not in (None, [])}
    if given["role"] == "assistant" and message.get("weight", 1) == 0:
        raise ConfigError(
            f"{origin}: weight=0 leaves an answer out of training, and every answer of a chat is learned: remove the "
            "chat, or cut it before this answer"
        )
    message["content"] = _content(given, origin, may_be_empty=may_be_empty)
    if "tool_calls" in message:
        message["tool_calls"] = _tool_calls(message, origin)
    return message


def _content(given: Mapping[str, Any], origin: str, *, may_be_empty: bool) -> str | None:
    """The text of a message; None where the model is to write it."""
    role, calls = given["role"], given.get("tool_calls")
    if "content" not in given and not calls:
        raise ConfigError(
            f"{origin}: role {role!r} has no content: write it; or, for an answer that the model shall write, "
            '"content": null'
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
    """The text of OpenAI's content parts, joined as a server joins them."""
    for part in parts:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ConfigError(
                f'{origin}: the content part {_short(part)} is not {{"type": "text", "text": ...}}: the model reads '
                "text only; remove it"
            )
    return " ".join(part["text"] for part in parts)


def _tool_calls(message: Message, origin: str) -> list[dict[str, Any]]:
    """The calls with their arguments as objects, as a server gives them to the chat template."""
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
    """ConfigError for a user's turn without content, unless every turn is the model's to write, in turns."""
    open_turns = [number for number, one in enumerate(messages, 1) if one["role"] == "user" and is_unwritten(one)]
    in_turns = [one["role"] for one in messages] == ["user", "assistant"] * (len(messages) // 2)
    if open_turns and not (in_turns and all(map(is_unwritten, messages))):
        raise ConfigError(
            f"{origin}, message {open_turns[0]}: role 'user' has no content, and the model writes a user's turns only "
            'in chats of which it writes all, user and assistant in turns, each with "content": null: '
            "write the question"
        )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
