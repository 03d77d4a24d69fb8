"""Chats for a model to answer: short chat, reading, searching, tools, rules and recall.

A conversation is a list of messages. The model answers those that are `{"role": "assistant", "content": None}`, in
order; the last message is one of them. An assistant message with text is part of the prompt.

All prompts are made offline from templates, Faker's names and installed prose. The same seed gives the same prompts
with the same versions of Python, Faker and the packages in prose.py. Wording, word lists and seeds are separate from
those of `sglang_speed.lab.evaluation`, although the skills overlap: a model must not be judged on its training data.
Imports neither torch nor sglang.

draw          random words, filled templates        messages     the form of a conversation
facts         invented passages, subjects           prose        real paragraphs
records       tables in many formats                kinds        the table of kinds and shares
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from pathlib import Path

from recipes.speed_llama.prompts.draw import Draw
from recipes.speed_llama.prompts.kinds import KINDS, Kind
from recipes.speed_llama.prompts.messages import Message, Messages

__all__ = ["KINDS", "Kind", "Message", "Messages", "chats", "generate_prompts", "labelled_prompts", "write_chats"]


def generate_prompts(num: int, seed: int) -> Iterator[Messages]:
    """Distinct conversations; the first ones of a seed do not depend on `num`."""
    return (messages for _, messages in labelled_prompts(num, seed))


def labelled_prompts(num: int, seed: int) -> Iterator[tuple[str, Messages]]:
    """The same, each with the name of its kind."""
    draw = Draw(seed)
    weights = [kind.percent for kind in KINDS]
    seen: set[bytes] = set()
    while len(seen) < num:
        (kind,) = draw.random.choices(KINDS, weights)
        messages = kind.make(draw)
        digest = blake2b(json.dumps(messages).encode(), digest_size=12).digest()
        if digest not in seen:
            seen.add(digest)
            yield kind.name, messages


def chats(num: int, seed: int, own_questions: int = 0) -> Iterator[Messages]:
    """Prompts, then `own_questions` chats of one to three turns in which the model also writes the user turns."""
    turns = Draw(seed).random.choices((1, 2, 3), weights=(6, 3, 1), k=own_questions)
    yield from generate_prompts(num, seed)
    yield from map(_all_open, turns)


def write_chats(path: Path, found: Iterable[Messages]) -> None:
    """Write JSON lines, `{"messages": [...]}`; reproducibly compressed if the name ends in .gz."""
    lines = "".join(json.dumps({"messages": messages}, ensure_ascii=False) + "\n" for messages in found).encode()
    path.write_bytes(gzip.compress(lines, mtime=0) if path.suffix == ".gz" else lines)


def _all_open(num_turns: int) -> Messages:
    return [{"role": role, "content": None} for _ in range(num_turns) for role in ("user", "assistant")]
