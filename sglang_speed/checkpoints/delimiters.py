"""The token ids with which messages begin, found in a checkpoint's chat template.

Owns how they are found: what a template puts in front of one more message. Imports transformers when it is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sglang_speed.errors import ConfigError

_TEXTS = ("What is the weight of a quince?", "About two hundred grams.", "And of a medlar?", "Ten to eighty grams.")
_ROLES = ("user", "assistant", "user", "assistant")


def delimiters_of(directory: Path, texts: Sequence[str] = ()) -> list[list[int]]:
    """Sequences of token ids, each of which begins a message.

    texts: what begins a message, if the user knows better than the template. Raises ConfigError where there is no
    tokenizer, where a text is no special token of it, and where the template shows no delimiter.
    """
    tokenizer = _tokenizer_of(directory)
    found = [_of_text(tokenizer, text) for text in texts] or list(_in_template(tokenizer))
    unique = [list(each) for each in dict.fromkeys(map(tuple, found))]
    if not unique:
        raise ConfigError(
            f"the chat template of {directory} begins messages with no special token that could be found: name it, "
            "e.g. --message-delimiter '<|im_start|>'"
        )
    return unique


def _tokenizer_of(directory: Path) -> Any:
    from transformers import AutoTokenizer

    import sglang_speed.reference  # noqa: F401  registers the model types of our checkpoints

    try:
        return AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{directory} has no readable tokenizer ({str(error).splitlines()[0]}): messages are found by their token "
            "ids; complete the download, or leave out --deep-message-tokens"
        ) from error


def _of_text(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    if not ids:
        raise ConfigError(f"--message-delimiter {text!r} has no tokens: write what stands before every message")
    return ids


def _in_template(tokenizer: Any) -> Iterator[list[int]]:
    """The special token with which each message of a chat begins, where one does."""
    if not tokenizer.chat_template:
        return
    specials, before = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder), list[int]()
    for number in range(1, len(_TEXTS) + 1):
        chat = [{"role": role, "content": text} for role, text in zip(_ROLES[:number], _TEXTS[:number], strict=True)]
        ids = list(tokenizer.apply_chat_template(chat, tokenize=True, return_dict=False))
        # the first message stands behind the begin of the sequence, and maybe behind a system prompt
        added = ids[len(before) :] if before and ids[: len(before)] == before else []
        if added and added[0] in specials:
            yield [added[0]]
        before = ids
