"""Questions about long texts: codes of places and facts about people, told between sentences that say nothing of them.

The longest text has 7000 tokens of SmolLM2, whose context is 8192.
"""

from __future__ import annotations

from collections.abc import Sequence

from sglang_speed.lab.evaluation.tasks.base import Item, Task
from sglang_speed.lab.evaluation.tasks.needle import code_question, draw_codes, is_code, text_with, told_code
from sglang_speed.lab.evaluation.tasks.recall import draw_facts
from sglang_speed.lab.evaluation.tasks.rules import has_word

LENGTHS = (1650, 3300, 5600)
"""Words: 2K, 4K and 7K tokens."""
NUM_OF_KIND = 5


class Long(Task):
    """A text is asked for all that is told in it: `drawn_together` questions."""

    name = "long"
    metrics = ("answered",)
    max_new_tokens = 24
    drawn_together = 2 * NUM_OF_KIND
    at_once = 8  # 8 texts of 7K tokens take as much as 64 short ones

    def item(self, seed: int, index: int) -> Item:
        """Neighbours ask about one text."""
        number, place = divmod(index, self.drawn_together)
        random = self.random(seed, number)
        length = LENGTHS[number % len(LENGTHS)]
        codes = [
            (told_code(of, code), code_question(of), {"code": code}) for of, code in draw_codes(random, NUM_OF_KIND)
        ]
        facts = [(fact.told, fact.question, {"word": fact.word}) for fact in draw_facts(random, NUM_OF_KIND)]
        told = random.sample([*codes, *facts], self.drawn_together)
        text = text_with(random, length, [sentence for sentence, _, _ in told])
        _, question, wanted = told[place]
        return Item((), (f"{text}\n\n{question}",), wanted, {"words": length, "kind": next(iter(wanted))})

    def grade(self, item: Item, answers: Sequence[str]) -> dict[str, float]:
        wanted, answer = item.wanted, answers[-1]
        is_right = is_code(answer, wanted["code"]) if "code" in wanted else has_word(answer, wanted["word"])
        return {"answered": float(is_right)}
