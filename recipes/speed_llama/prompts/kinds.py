"""The table of all kinds of prompts and their shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from recipes.speed_llama.prompts import patterns, reading, recall, searching, smalltalk, tools
from recipes.speed_llama.prompts.draw import Draw
from recipes.speed_llama.prompts.messages import Messages


@dataclass(frozen=True)
class Kind:
    """percent: share of all prompts. make: makes one prompt."""

    name: str
    percent: int
    make: Callable[[Draw], Messages]


KINDS: tuple[Kind, ...] = (
    Kind("chat", 14, smalltalk.chat),
    Kind("instructions", 8, smalltalk.instructions),
    Kind("questions", 10, reading.questions),
    Kind("summaries", 5, reading.summaries),
    Kind("rewrites", 4, reading.rewrites),
    Kind("open requests", 10, reading.open_requests),
    Kind("follow-ups", 6, reading.follow_ups),
    Kind("extractions", 4, reading.extractions),
    Kind("needles", 8, searching.needles),
    Kind("lookups", 7, searching.lookups),
    Kind("copies", 5, searching.copies),
    Kind("tools", 8, tools.tools),
    Kind("recall", 5, recall.recall),
    Kind("classification", 2, patterns.classification),
    Kind("few_shot", 3, patterns.few_shot),
    Kind("sums", 1, patterns.sums),
)
