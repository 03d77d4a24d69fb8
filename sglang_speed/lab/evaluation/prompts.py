"""Chats that the full-depth model answers: short questions, questions about a passage, and second turns.

Made from a seed alone. The prose is meaningless, which does not matter when two models are compared on it.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from sglang_speed.lab.evaluation.tasks.base import assistant, user
from sglang_speed.lab.evaluation.tasks.words import PLACES, SMALL_TALK, TOPICS, sentences

Messages = tuple[dict[str, str], ...]

SHORT = (
    "Explain {topic} to a child.",
    "Write a short poem about {topic}.",
    "Give me three facts about {topic}.",
    "Write an email to a colleague about {topic}.",
    "What do people like about {topic}?",
    "Write the first lines of a story about {topic}.",
)
OVER_A_PASSAGE = (
    "Summarize this text in two sentences.",
    "Which places are named in this text?",
    "Who does what in this text? Give me a list.",
    "Write a sentence that could follow this text.",
    "What is strange about this text?",
)
FOLLOW_UPS = (
    "Tell me more about that.",
    "Say that again in simpler words.",
    "Why is that so?",
    "Give me an example.",
    "Now write it as a list.",
)
PASSAGE_WORDS = (60, 220)


def short_question(random: Random) -> Messages:
    return (user(random.choice(SHORT).format(topic=random.choice(TOPICS))),)


def question_over_passage(random: Random) -> Messages:
    passage = " ".join(sentences(random, random.randint(*PASSAGE_WORDS)))
    return (user(f"{passage}\n\n{random.choice(OVER_A_PASSAGE)}"),)


def second_turn(random: Random) -> Messages:
    """The first answer is given, the same for every model."""
    topic, place = random.choice(TOPICS), random.choice(PLACES)
    first = random.choice((random.choice(SHORT).format(topic=topic), random.choice(SMALL_TALK)))
    answer = f"In {place} they say: {' '.join(sentences(random, 40))} That is what I know about it."
    return (user(first), assistant(answer), user(random.choice(FOLLOW_UPS)))


KINDS: dict[str, Callable[[Random], Messages]] = {
    "short question": short_question,
    "passage": question_over_passage,
    "second turn": second_turn,
}


def chats(seed: int, num_chats: int) -> list[tuple[str, Messages]]:
    """(kind, messages), kinds alternating; the first ones do not depend on `num_chats`."""
    names = list(KINDS)
    kinds = [names[index % len(names)] for index in range(num_chats)]
    return [(kind, KINDS[kind](Random(f"chat {seed} {index}"))) for index, kind in enumerate(kinds)]
