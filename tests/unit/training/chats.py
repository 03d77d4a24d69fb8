"""Chats of the tests, as files and as token ids."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from sglang_speed.lab.common.chat import ChatFormat, Message
from tests.tiny_models import EOS_ID, tiny_tokenizer

SHAPE: dict[str, Any] = {"num_layers": 4, "hidden_size": 32, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8}
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{{ eos_token }}\n"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def chat_format_of(template: str = TEMPLATE, tokenizer: PreTrainedTokenizerFast | None = None) -> ChatFormat:
    tokenizer = tokenizer or tiny_tokenizer()
    tokenizer.chat_template = template
    return ChatFormat(tokenizer, [EOS_ID])


def user(content: str | None) -> Message:
    return {"role": "user", "content": content}


def assistant(content: str | None) -> Message:
    return {"role": "assistant", "content": content}


def write_chats(path: Path, chats: Iterable[list[Message]]) -> Path:
    """A JSONL file with these messages."""
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in chats), encoding="utf-8")
    return path
