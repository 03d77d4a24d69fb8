"""Needle retrieval: find a number in a long text, at every combination of length and depth.

The text also has the numbers of two other places, so that the model must find the right one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product

from sglang_speed.errors import ConfigError
from sglang_speed.lab.evaluation.tasks.base import Item, Task
from sglang_speed.lab.evaluation.tasks.words import PLACES, sentences

DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
LENGTHS = (150, 300, 600)
DIGITS = 4
NUM_NEEDLES = 3


class Needle(Task):
    """lengths: of the text, in words."""

    name = "needle"
    metrics = ("found",)
    max_new_tokens = 24

    def __init__(self, lengths: Sequence[int] = LENGTHS) -> None:
        short = [length for length in lengths if length < 50]
        if short:
            raise ConfigError(f"--length {short[0]} is below 50 words: choose a longer text, e.g. 300")
        self._cells = list(product(lengths, DEPTHS))

    def item(self, seed: int, index: int) -> Item:
        random = self.random(seed, index)
        length, depth = self._cells[index % len(self._cells)]
        text = sentences(random, length)
        places = random.sample(PLACES, NUM_NEEDLES)
        codes = [str(code) for code in random.sample(range(10 ** (DIGITS - 1), 10**DIGITS), NUM_NEEDLES)]
        place, code = places[0], codes[0]
        for other, wrong in zip(places[1:], codes[1:], strict=True):
            text.insert(random.randrange(len(text)), needle(other, wrong))
        text.insert(round(depth * len(text)), needle(place, code))
        question = f"{' '.join(text)}\n\nWhat is the secret code of {place}? Answer with the code."
        return Item((), (question,), {"code": code}, {"words": length, "depth": depth})

    def grade(self, item: Item, answers: Sequence[str]) -> dict[str, float]:
        """Right if the first number in the answer is the code."""
        numbers = re.findall(r"\d+", answers[-1])
        return {"found": float(numbers[:1] == [item.wanted["code"]])}


def needle(place: str, code: str) -> str:
    return f"The secret code of {place} is {code}."
