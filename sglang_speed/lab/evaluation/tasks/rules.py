"""Rules for answers: a user's wording, an answer that follows the rule, and the check."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sglang_speed.lab.evaluation.tasks.words import NAMES, PLACES, THINGS

Check = Callable[[str, str], bool]


@dataclass(frozen=True)
class Rule:
    """words: choices for {word} in wording and example. check(answer, word): whether an answer follows the rule."""

    name: str
    wording: str
    example: str
    check: Check
    words: Sequence[str] = ("",)


def has_word(text: str, word: str) -> bool:
    return re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) is not None


def words_of(text: str) -> list[str]:
    """The words in lower case, without punctuation."""
    return re.findall(r"[^\W_]+(?:['-][^\W_]+)*", text.casefold())


def num_sentences(text: str) -> int:
    return len([part for part in re.split(r"[.!?]+(?:\s|$)", text) if part.strip()])


def are_bullets(text: str, count: int) -> bool:
    """Whether the text is exactly `count` bullet points."""
    lines = [line for line in text.splitlines() if line.strip()]
    return len(lines) == count and all(line.startswith("- ") for line in lines)


def is_json_object(text: str, key: str) -> bool:
    """Whether the text is a JSON object with this key only."""
    try:
        value = json.loads(text)
    except ValueError:
        return False
    return isinstance(value, dict) and list(value) == [key]


_ALL = (
    Rule(
        "upper case",
        "Write capital letters only.",
        "A CUP OF TEA WARMS THE HANDS AND CALMS THE MIND.",
        lambda answer, _: answer.isupper(),
    ),
    Rule(
        "lower case",
        "Write lower case letters only.",
        "a cup of tea warms the hands and calms the mind.",
        lambda answer, _: answer.islower(),
    ),
    Rule(
        "word",
        "Use the word {word}.",
        "A cup of tea stands beside the {word}. It warms the hands.",
        has_word,
        THINGS,  # none is in a request
    ),
    Rule(
        "ending",
        'End with the words "{word}"',
        "A cup of tea warms the hands and calms the mind. {word}",
        lambda answer, word: answer.endswith(word),
        ("That is all.", "The end.", "Thank you for reading.", "See you soon.", "Good night."),
    ),
    Rule(
        "beginning",
        'Begin with the words "Dear {word},"',
        "Dear {word}, a cup of tea warms the hands and calms the mind.",
        lambda answer, word: answer.startswith(f"Dear {word},"),
        NAMES,
    ),
    Rule(
        "no commas",
        "Do not use commas.",
        "A cup of tea warms the hands. It calms the mind.",
        lambda answer, _: bool(answer) and "," not in answer,
    ),
    Rule(
        "bullets",
        "Answer with two bullet points.",
        "- A cup of tea warms the hands.\n- It calms the mind.",
        lambda answer, _: are_bullets(answer, 2),
    ),
    Rule(
        "one sentence",
        "Write one sentence only.",
        "A cup of tea warms the hands and calms the mind.",
        lambda answer, _: num_sentences(answer) == 1 and answer.rstrip("\"'”’)]*")[-1:] in {".", "!", "?"},
    ),
    Rule(
        "short",
        "Use at most ten words.",
        "A cup of tea warms the hands.",
        lambda answer, _: 0 < len(words_of(answer)) <= 10,
    ),
    Rule(
        "title",
        "Write a title in double square brackets first.",
        "[[A cup of tea]] It warms the hands and calms the mind.",
        lambda answer, _: re.match(r"\[\[[^\]]+\]\]\s*\w", answer) is not None,
    ),
    Rule(
        "JSON",
        'Write a JSON object with the key "{word}" and nothing else.',
        '{{"{word}": "A cup of tea warms the hands."}}',
        is_json_object,
        ("answer", "text", "result", "reply", "content"),
    ),
    Rule(
        "signature",
        "Sign as {word}.",
        "A cup of tea warms the hands and calms the mind.\n\n{word}",
        lambda answer, word: answer.rstrip(".").endswith(word),
        tuple(f"{name} of {place}" for name, place in zip(NAMES, PLACES, strict=False)),
    ),
)
RULES = {rule.name: rule for rule in _ALL}
