"""Multi-turn recall: the user tells facts, changes the subject, and asks for the facts.

One question with its answer comes first, as an example. All turns are sent, the model's own answers included, so the
server finds earlier ones in its radix tree. All facts are told in one message: a small model that has answered each of
them alike repeats that answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from sglang_speed.lab.evaluation.tasks.base import Item, Task, assistant, system, user
from sglang_speed.lab.evaluation.tasks.rules import has_word
from sglang_speed.lab.evaluation.tasks.words import ANIMALS, COLOURS, FOODS, HOBBIES, JOBS, NAMES, PLACES, SMALL_TALK

FACTS = (
    ("{name} lives in {word}.", "Where does {name} live?", PLACES),
    ("{name} has a {word}.", "Which animal does {name} have?", ANIMALS),
    ("The favourite colour of {name} is {word}.", "What is the favourite colour of {name}?", COLOURS),
    ("{name} works as a {word}.", "What is the job of {name}?", JOBS),
    ("The hobby of {name} is {word}.", "What is the hobby of {name}?", HOBBIES),
    ("{name} likes to eat {word}.", "What does {name} like to eat?", FOODS),
)
NUM_EXAMPLES = 1
NUM_FACTS = 3
NUM_SMALL_TALK = 2
SYSTEM = "You are a helpful assistant. You answer in one short sentence."
THANKS = "Thank you, I will remember that."


@dataclass(frozen=True)
class Fact:
    """told: the user's sentence. question: asked later. word: the expected answer."""

    told: str
    question: str
    word: str


def draw_facts(random: Random, num: int) -> list[Fact]:
    """Facts about different people, each of another kind."""
    facts = []
    for name, (told, question, words) in zip(random.sample(NAMES, num), random.sample(FACTS, num), strict=True):
        word = random.choice(words)
        facts.append(Fact(told.format(name=name, word=word), question.format(name=name), word))
    return facts


class Recall(Task):
    """An item is a session with several questions; `recalled` is the share of right answers."""

    name = "recall"
    metrics = ("recalled",)
    max_new_tokens = 24

    def items(self, seed: int, num_items: int) -> list[Item]:
        """num_items: number of questions; a session has several."""
        return super().items(seed, -(-num_items // NUM_FACTS))

    def item(self, seed: int, index: int) -> Item:
        random = self.random(seed, index)
        facts = draw_facts(random, NUM_EXAMPLES + NUM_FACTS)
        told = " ".join(fact.told for fact in random.sample(facts, len(facts)))
        opening = [system(SYSTEM), user(told), assistant(THANKS)]
        for fact in facts[:NUM_EXAMPLES]:
            opening += [user(fact.question), assistant(fact.told)]
        asked = facts[NUM_EXAMPLES:]
        turns = (*random.sample(SMALL_TALK, NUM_SMALL_TALK), *(fact.question for fact in asked))
        return Item(tuple(opening), turns, {"words": [fact.word for fact in asked]})

    def grade(self, item: Item, answers: Sequence[str]) -> dict[str, float]:
        asked = zip(item.wanted["words"], answers[-NUM_FACTS:], strict=True)
        return {"recalled": sum(has_word(answer, word) for word, answer in asked) / NUM_FACTS}
