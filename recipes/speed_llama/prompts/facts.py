"""Invented passages with known facts: sentences, and a question for each.

Makes text of a given length from subjects. Questions are drawn evenly over the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from recipes.speed_llama.prompts.draw import Draw
from recipes.speed_llama.prompts.subjects import FILLERS, SUBJECTS

MAX_FILLERS = 0.35


@dataclass(frozen=True)
class Fact:
    """A sentence and the question that it answers; without a question it is a filler."""

    sentence: str
    question: str = ""


@dataclass(frozen=True)
class Passage:
    """Paragraphs of facts."""

    paragraphs: tuple[tuple[Fact, ...], ...]

    def ask(self, draw: Draw, count: int = 1) -> list[Fact]:
        """Distinct facts with questions, uniformly over the text."""
        return draw.sample([fact for group in self.paragraphs for fact in group if fact.question], count)

    def sentences(self) -> list[str]:
        """All sentences in order."""
        return [fact.sentence for group in self.paragraphs for fact in group]

    def text(self, separator: str = "\n\n") -> str:
        """The passage as running text."""
        return separator.join(" ".join(fact.sentence for fact in group) for group in self.paragraphs)


def passage(draw: Draw, num_chars: int, subject: str | None = None) -> Passage:
    """A passage of about `num_chars`, on one or several subjects."""
    subjects = [subject] if subject else draw.sample(sorted(SUBJECTS), draw.num(1, 4))
    paragraphs: list[tuple[Fact, ...]] = []
    size = 0
    while size < num_chars:
        paragraphs.append(_paragraph(draw, draw.pick(subjects), num_chars - size))
        size += sum(len(fact.sentence) + 1 for fact in paragraphs[-1])
    return Passage(tuple(paragraphs))


def sentences(draw: Draw, count: int) -> list[str]:
    """Single sentences on different subjects."""
    return [draw.pick(passage(draw, 60).ask(draw)).sentence for _ in range(count)]


def _paragraph(draw: Draw, subject: str, room: int) -> tuple[Fact, ...]:
    """Facts in order, some but the first left out, with fillers between, until `room` is used up."""
    known: dict[str, str] = {}
    lines = _lines(subject)
    facts: list[Fact] = []
    fillers = draw.random.uniform(0, MAX_FILLERS)
    for index in (0, *sorted(draw.sample(range(1, len(lines)), draw.num(2, len(lines) - 1)))):
        if facts and sum(len(fact.sentence) for fact in facts) > room:
            break
        told, asked = lines[index]
        facts.append(Fact(draw.one(told, known), draw.one(asked, known)))
        if draw.chance(fillers):
            facts.append(Fact(draw.one(FILLERS)))
    return tuple(facts)


@cache
def _lines(subject: str) -> tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]:
    """For each fact of a subject: the ways to tell it and to ask for it."""
    blocks = re.split(r"\n(?! *\?)", SUBJECTS[subject].strip())
    halves = (re.split(r"\n *\? ", block, maxsplit=1) for block in blocks)
    return tuple((_ways(told), _ways(re.sub(r"\n *\? ", "|", asked))) for told, asked in halves)


def _ways(text: str) -> tuple[str, ...]:
    return tuple(way.strip() for way in text.split("|"))
