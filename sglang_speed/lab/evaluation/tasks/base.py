"""The base class of tasks: items made from a seed, and a grade for the answers to each.

Items are the same for every model, so that two models can be compared item by item. The first N items do not depend on
the number of items.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, ClassVar


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


@dataclass(frozen=True)
class Item:
    """One conversation. opening: given messages. turns: the user's following messages, between which the model answers.
    wanted: data for grading. group: the kind of item, for tables."""

    opening: tuple[dict[str, str], ...]
    turns: tuple[str, ...]
    wanted: Mapping[str, Any]
    group: Mapping[str, Any] = field(default_factory=dict)


class Task(ABC):
    """metrics: keys of `grade`, whose values are from 0 to 1; the first is the task's headline. faults: metrics where
    lower is better. drawn_together: number of neighbouring items that share a part and so are not independent.
    at_once: how many such groups are asked at a time, where not as many as the client can: what
    each shares should stay in the radix tree."""

    name: ClassVar[str]
    metrics: ClassVar[tuple[str, ...]]
    faults: ClassVar[tuple[str, ...]] = ()
    max_new_tokens: ClassVar[int]
    drawn_together: ClassVar[int] = 1
    at_once: ClassVar[int | None] = None

    def items(self, seed: int, num_items: int) -> list[Item]:
        return [self.item(seed, index) for index in range(num_items)]

    @abstractmethod
    def item(self, seed: int, index: int) -> Item:
        """The item with this index; depends on the arguments only."""

    def random(self, *parts: int) -> Random:
        """A generator that depends on task and parts only."""
        return Random(" ".join(map(str, (self.name, *parts))))

    @abstractmethod
    def grade(self, item: Item, answers: Sequence[str]) -> dict[str, float]:
        """A value for each of `metrics`. answers: one for each turn."""
