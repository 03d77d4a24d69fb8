"""Runs a task, or scores the references, on one server: a value for each item and metric."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, field
from threading import Event
from typing import Any, Protocol

from sglang_speed.lab.common.chat import Chat, ChatFormat, Message
from sglang_speed.lab.common.client import Client
from sglang_speed.lab.common.digest import digest_of
from sglang_speed.lab.evaluation.references import Reference, digest_of_references
from sglang_speed.lab.evaluation.tasks.base import Item, Task, assistant, user

RESPONSES = "responses"


@dataclass(frozen=True)
class ItemResult:
    """The result of one item. values: by metric. weight: number of summed terms, e.g. tokens. answers: of the model."""

    values: dict[str, float]
    group: dict[str, Any]
    weight: float = 1.0
    answers: list[str] = field(default_factory=list)


class Measurement(Protocol):
    """digest: changes with the requests. drawn_together: group size of neighbouring items that are not independent."""

    name: str
    digest: str
    drawn_together: int

    def __len__(self) -> int: ...

    def ask(self, client: Client, tail_tokens: int) -> Generator[ItemResult, None, None]:
        """Results in the order of the items. tail_tokens: of the served model."""


class Answers:
    """A task that the model answers greedily."""

    def __init__(self, task: Task, chat_format: ChatFormat, seed: int, num_items: int) -> None:
        self.task, self.chat_format, self.name = task, chat_format, task.name
        self.drawn_together = task.drawn_together
        self.items = task.items(seed, num_items)
        self.digest = digest_of([[asdict(item) for item in self.items], task.max_new_tokens, task.metrics])

    def __len__(self) -> int:
        return len(self.items)

    @property
    def longest_prompt(self) -> int:
        """Tokens of the longest first turn."""
        return max(len(self._prompt([*item.opening, user(item.turns[0])])) for item in self.items)

    def ask(self, client: Client, tail_tokens: int) -> Generator[ItemResult, None, None]:
        """What shares a part is asked one after the other: then the server has computed that part."""
        size = self.drawn_together
        together = [self.items[first : first + size] for first in range(0, len(self.items), size)]
        is_given_up = Event()

        def answer(items: Sequence[Item]) -> list[ItemResult]:
            return [self._ask(client, item) for item in items if not is_given_up.is_set()]

        try:
            for answered in client.each(answer, together, self.task.at_once):
                yield from answered
        finally:
            is_given_up.set()

    def _ask(self, client: Client, item: Item) -> ItemResult:
        """Ask turn by turn; each prompt contains the model's earlier answers."""
        messages, answers = list(item.opening), []
        for turn in item.turns:
            messages.append(user(turn))
            said = client.generate(self._prompt(messages), self.task.max_new_tokens)
            answers.append(self.chat_format.text(said))
            messages.append(assistant(answers[-1]))
        return ItemResult(self.task.grade(item, answers), dict(item.group), answers=answers)

    def _prompt(self, messages: Sequence[Message]) -> list[int]:
        return self.chat_format.prompt_ids(Chat(list(messages)))


class Responses:
    """The full-depth model's responses, scored as if this model had generated them."""

    name = RESPONSES
    drawn_together = 1

    def __init__(self, references: Sequence[Reference]) -> None:
        self.references = references
        self.digest = digest_of_references(references)

    def __len__(self) -> int:
        return len(self.references)

    def ask(self, client: Client, tail_tokens: int) -> Generator[ItemResult, None, None]:
        return client.each(lambda reference: self._score(client, reference, tail_tokens), self.references)

    def _score(self, client: Client, reference: Reference, tail_tokens: int) -> ItemResult:
        score = client.score(reference.context, reference.ids, tail_tokens)
        same = sum(one == other for one, other in zip(score.best, reference.best, strict=True))
        values = {"logprob": sum(score.logprobs), "agreement": float(same)}
        return ItemResult(values, {"kind": reference.kind}, weight=len(reference.ids))

    def baseline(self) -> dict[str, list[float]]:
        """The full-depth model's values, from when the responses were drawn."""
        return {
            "logprob": [sum(reference.logprobs) for reference in self.references],
            "agreement": [float(len(reference.ids)) for reference in self.references],
        }
