"""Needle retrieval: find a number in a text, at every combination of length and depth.

A text has the numbers of several places, and is asked for each of them: the model must find the right one, and a server
computes the text once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

from sglang_speed.errors import ConfigError
from sglang_speed.lab.evaluation.tasks.base import Item, Task
from sglang_speed.lab.evaluation.tasks.words import PLACES, sentences

DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
LENGTHS = (150, 300, 600)
DIGITS = 4


class Needle(Task):
    """lengths: of the text, in words."""

    name = "needle"
    metrics = ("found",)
    max_new_tokens = 24
    drawn_together = len(DEPTHS)

    def __init__(self, lengths: Sequence[int] = LENGTHS) -> None:
        short = [length for length in lengths if length < 50]
        if short:
            raise ConfigError(f"--length {short[0]} is below 50 words: choose a longer text, e.g. 300")
        self._lengths = tuple(lengths)

    def item(self, seed: int, index: int) -> Item:
        """Neighbours ask for the numbers of one text."""
        number, place = divmod(index, len(DEPTHS))
        random = self.random(seed, number)
        length = self._lengths[number % len(self._lengths)]
        codes = draw_codes(random, len(DEPTHS))
        text = text_with(random, length, [told_code(*code) for code in codes])
        asked, code = codes[place]
        return Item(
            (), (f"{text}\n\n{code_question(asked)}",), {"code": code}, {"words": length, "depth": DEPTHS[place]}
        )

    def grade(self, item: Item, answers: Sequence[str]) -> dict[str, float]:
        return {"found": float(is_code(answers[-1], item.wanted["code"]))}


def draw_codes(random: Random, num: int) -> list[tuple[str, str]]:
    """Places and their codes."""
    codes = random.sample(range(10 ** (DIGITS - 1), 10**DIGITS), num)
    return [(place, str(code)) for place, code in zip(random.sample(PLACES, num), codes, strict=True)]


def told_code(place: str, code: str) -> str:
    return f"The secret code of {place} is {code}."


def code_question(place: str) -> str:
    return f"What is the secret code of {place}? Answer with the code."


def is_code(answer: str, code: str) -> bool:
    """Whether the first number in the answer is the code."""
    return re.findall(r"\d+", answer)[:1] == [code]


def text_with(random: Random, num_words: int, told: Sequence[str]) -> str:
    """Prose of about `num_words` words with the told sentences at equal distances, from its beginning to its end."""
    prose = sentences(random, num_words)
    places = [round(number * len(prose) / (len(told) - 1)) for number in range(len(told))]
    for place, sentence in zip(reversed(places), reversed(told), strict=True):
        prose.insert(place, sentence)
    return " ".join(prose)
