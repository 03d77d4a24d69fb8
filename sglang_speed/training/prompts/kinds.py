"""The table of all kinds of prompts: what each practises is its maker's; how often it comes is here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sglang_speed.training.prompts import patterns, reading, recall, searching, smalltalk, tools
from sglang_speed.training.prompts.draw import Draw
from sglang_speed.training.prompts.messages import Messages


@dataclass(frozen=True)
class Kind:
    """name, its share of all prompts in percent, and what makes one."""

    name: str
    percent: int
    make: Callable[[Draw], Messages]


KINDS: tuple[Kind, ...] = (
    Kind("chat", 10, smalltalk.chat),
    Kind("instructions", 7, smalltalk.instructions),
    Kind("questions", 14, reading.questions),
    Kind("summaries", 5, reading.summaries),
    Kind("rewrites", 4, reading.rewrites),
    Kind("extractions", 5, reading.extractions),
    Kind("needles", 12, searching.needles),
    Kind("lookups", 12, searching.lookups),
    Kind("copies", 7, searching.copies),
    Kind("tools", 9, tools.tools),
    Kind("recall", 6, recall.recall),
    Kind("classification", 3, patterns.classification),
    Kind("few_shot", 4, patterns.few_shot),
    Kind("sums", 2, patterns.sums),
)
