"""A checkpoint's tokenizer and chat template: messages to token ids, token ids to text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sglang_speed.errors import ConfigError

Message = Mapping[str, str]


class Chat:
    """Raises ConfigError where the directory has no tokenizer or no chat template."""

    def __init__(self, directory: Path) -> None:
        from transformers import AutoTokenizer

        import sglang_speed.reference  # noqa: F401  AutoTokenizer reads config.json, whose model type it must know

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{directory} has no tokenizer that can be read ({error}): prompts are made with the checkpoint's own; "
                "name a checkpoint directory that has one"
            ) from error
        if not self._tokenizer.chat_template:
            raise ConfigError(
                f"{directory} has no chat template: the tasks are chats; add the published chat_template.jinja"
            )

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Token ids up to where the assistant's answer begins."""
        ids: list[int] = self._tokenizer.apply_chat_template(
            [dict(message) for message in messages], add_generation_prompt=True, tokenize=True, return_dict=False
        )
        return ids

    def text(self, ids: Sequence[int]) -> str:
        """An answer as its reader sees it."""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text.strip()

    @property
    def digest(self) -> str:
        """The same for checkpoints whose token ids and prompts mean the same."""
        return digest_of([sorted(self._tokenizer.get_vocab().items()), self._tokenizer.chat_template])


def digest_of(value: Any) -> str:
    """A short name for a JSON-serializable value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
