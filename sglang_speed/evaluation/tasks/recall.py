"""Multi-turn recall: the user tells facts, talks of something else, and asks for the facts.

The model's own answers stand in between. All turns are sent, so that a server finds the earlier ones in its radix tree.
"""

from __future__ import annotations

from collections.abc import Sequence

from sglang_speed.evaluation.tasks.base import Item, Task, assistant, system, user
from sglang_speed.evaluation.tasks.rules import has_word
from sglang_speed.evaluation.tasks.words import ANIMALS, COLOURS, FOODS, HOBBIES, JOBS, NAMES, PLACES, SMALL_TALK

FACTS = (
    ("{name} lives in {word}.", "Where does {name} live?", PLACES),
    ("{name} has a {word}.", "Which animal does {name} have?", ANIMALS),
    ("The favourite colour of {name} is {word}.", "What is the favourite colour of {name}?", COLOURS),
    ("{name} works as a {word}.", "What is the job of {name}?", JOBS),
    ("The hobby of {name} is {word}.", "What is the hobby of {name}?", HOBBIES),
    ("{name} likes to eat {word}.", "What does {name} like to eat?", FOODS),
)
NUM_FACTS = 3
NUM_SMALL_TALK = 2
SYSTEM = "You are a helpful assistant. You answer in one short sentence."


class Recall(Task):
    """An item is a session that asks for several facts; `recalled` is the share of them in the answers."""

    name = "recall"
    metrics = ("recalled",)
    max_new_tokens = 24

    def items(self, seed: int, num_items: int) -> list[Item]:
        """num_items: questions, of which a session has several."""
        return super().items(seed, -(-num_items // NUM_FACTS))

    def item(self, seed: int, index: int) -> Item:
        random = self.random(seed, index)
        opening, questions, words = [system(SYSTEM)], [], []
        for name, (fact, question, values) in zip(
            random.sample(NAMES, NUM_FACTS), random.sample(FACTS, NUM_FACTS), strict=True
        ):
            words.append(random.choice(values))
            questions.append(question.format(name=name))
            opening += [user(fact.format(name=name, word=words[-1])), assistant(f"Good to know about {name}.")]
        turns = (*random.sample(SMALL_TALK, NUM_SMALL_TALK), *questions)
        return Item(tuple(opening), turns, {"words": words})

    def grade(self, item: Item, answers: Sequence[str]) -> dict[str, float]:
        asked = zip(item.wanted["words"], answers[-NUM_FACTS:], strict=True)
        return {"recalled": sum(has_word(answer, word) for word, answer in asked) / NUM_FACTS}
