"""Instruction following: a request with one rule that a program can check.

An example of the same rule, with another word if it has one, comes first, so that a small model can follow it too.
No request comes twice with a rule before each has come once, so that thousands of items are distinct.
"""

from __future__ import annotations

from collections.abc import Sequence

from sglang_speed.lab.evaluation.tasks.base import Item, Task, assistant, user
from sglang_speed.lab.evaluation.tasks.rules import RULES, words_of
from sglang_speed.lab.evaluation.tasks.words import ANIMALS, COLOURS, TOPICS

_SUBJECTS = (*TOPICS, *(f"the {colour} {animal}" for colour in COLOURS for animal in ANIMALS))
_WORDINGS = ("Write about {}.", "Tell me something about {}.", "What can you say about {}?")
REQUESTS = tuple(wording.format(subject) for wording in _WORDINGS for subject in _SUBJECTS)
EXAMPLE = "Tell me something about a cup of tea."
FEWEST_WORDS = 3


class Instructions(Task):
    name = "instructions"
    metrics = ("followed",)
    max_new_tokens = 64

    def item(self, seed: int, index: int) -> Item:
        round_, place = divmod(index, len(RULES))
        rule = list(RULES.values())[place]
        requests = self.random(seed, place, -1).sample(REQUESTS, len(REQUESTS))
        request = requests[round_ % len(requests)]
        random = self.random(seed, index)
        shown, word = random.sample(rule.words, 2) if len(rule.words) > 1 else (rule.words[0], rule.words[0])
        opening = (user(f"{EXAMPLE} {rule.wording.format(word=shown)}"), assistant(rule.example.format(word=shown)))
        wanted = {"rule": rule.name, "word": word}
        return Item(opening, (f"{request} {rule.wording.format(word=word)}",), wanted, {"rule": rule.name})

    def grade(self, item: Item, answers: Sequence[str]) -> dict[str, float]:
        """A copy of the example, or one or two repeated words, do not count."""
        rule, word = RULES[item.wanted["rule"]], item.wanted["word"]
        said, shown = words_of(answers[-1]), words_of(rule.example.format(word=word))
        is_copy = said == shown * (len(said) // len(shown))
        is_answer = len(set(said)) >= FEWEST_WORDS and not is_copy
        return {"followed": float(is_answer and rule.check(answers[-1], word))}
