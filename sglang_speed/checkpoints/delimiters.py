"""The token ids with which messages begin, found in a checkpoint's chat template.

Owns how they are found: what a template puts in front of one more message. Imports transformers when it is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from sglang_speed.errors import ConfigError

_SYSTEM, _USER, _ANSWER, _TOOL = (
    {"role": role, "content": text}
    for role, text in (
        ("system", "Be brief."),
        ("user", "What is the weight of a quince?"),
        ("assistant", "About two hundred grams."),
        ("tool", "200 g"),
    )
)
_CHATS = (
    [_USER, _ANSWER, _USER, _ANSWER],
    [_SYSTEM, _USER],
    [_USER, _ANSWER, _TOOL, _ANSWER],
)
"""A message of every role behind each other; a template may refuse some."""


def delimiters_of(directory: Path, texts: Sequence[str] = ()) -> list[list[int]]:
    """Sequences of token ids, each of which begins a message.

    texts: what else begins a message than what the template shows. Raises ConfigError where there is no tokenizer,
    where a text has no tokens, and where nothing is found.
    """
    tokenizer = _tokenizer_of(directory)
    found = [*_in_template(tokenizer), *(_of_text(tokenizer, text) for text in texts)]
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
    specials = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    for chat in _CHATS:
        rendered = [_rendered(tokenizer, chat[:number]) for number in range(1, len(chat) + 1)]
        for shorter, longer in pairwise(rendered):
            added = longer[len(shorter) :] if shorter and longer[: len(shorter)] == shorter else []
            if added and added[0] in specials:
                yield [added[0]]
    # a first message stands behind what begins a sequence, which is the same for every role
    system, user = _rendered(tokenizer, [_SYSTEM]), _rendered(tokenizer, [_USER])
    begins = next((one for one, other in zip(system, user, strict=False) if one != other), None)
    if begins is not None and begins in specials:
        yield [begins]


def _rendered(tokenizer: Any, chat: Sequence[dict[str, str]]) -> list[int]:
    """Empty where the template refuses a chat."""
    try:
        return list(tokenizer.apply_chat_template(list(chat), tokenize=True, return_dict=False))
    except Exception:  # templates raise what they like
        return []
