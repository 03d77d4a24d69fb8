"""What a task is: items made from a seed, and a grade for the answers to one.

Items are the same for every model, so that two models can be compared item by item; the first N of them do not depend
on how many are asked for.
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
    """One conversation. opening: messages that are given. turns: what the user then says, one by one; the model's own
    answers stand between them. wanted: what the grade needs to know. group: what kind of item it is, for tables."""

    opening: tuple[dict[str, str], ...]
    turns: tuple[str, ...]
    wanted: Mapping[str, Any]
    group: Mapping[str, Any] = field(default_factory=dict)


class Task(ABC):
    """metrics: what `grade` gives, from 0 to 1; the first one is the task's headline. Of those in `faults` less is
    better. drawn_together: neighbouring items that share a part, and are not independent because of it."""

    name: ClassVar[str]
    metrics: ClassVar[tuple[str, ...]]
    faults: ClassVar[tuple[str, ...]] = ()
    max_new_tokens: ClassVar[int]
    drawn_together: ClassVar[int] = 1

    def items(self, seed: int, num_items: int) -> list[Item]:
        return [self.item(seed, index) for index in range(num_items)]

    @abstractmethod
    def item(self, seed: int, index: int) -> Item:
        """The item with this index; nothing but the arguments decides what it is."""

    def random(self, *parts: int) -> Random:
        """The same for the same task and parts, whatever was drawn before."""
        return Random(" ".join(map(str, (self.name, *parts))))

    @abstractmethod
    def grade(self, item: Item, answers: Sequence[str]) -> dict[str, float]:
        """A value for each of `metrics`. answers: one for each turn."""
