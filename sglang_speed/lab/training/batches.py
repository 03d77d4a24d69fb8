"""Batches for `TrainingModel`: the deep rows of conversations, packed turn by turn.

Owns the choice of the tail and the collation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from sglang_speed.config import SpeedConfig
from sglang_speed.lab.common.chat import Conversation
from sglang_speed.lab.training.states import StateFolder
from sglang_speed.policies import SpeedPolicy
from sglang_speed.reference.modeling import IGNORED_LABEL
from sglang_speed.reference.training import DeepRows, deep_rows

Example = dict[str, Tensor]


class TrainingExamples(Dataset[Example]):
    """One example per conversation, with one of `tails`, another one in each epoch.

    numbers: indices into `conversations`. states: kept states, whose policy has the longest tail; None if neither a
    teacher nor entry states are needed. entry_layer: the lowest trained layer; above 0 its kept input states replace
    token ids.
    """

    def __init__(
        self,
        conversations: Sequence[Conversation],
        numbers: Sequence[int],
        speed: SpeedConfig,
        tails: Sequence[int],
        states: StateFolder | None,
        *,
        entry_layer: int,
        distil: bool,
    ) -> None:
        assert states is not None or not (entry_layer or distil), "entry states and a teacher come from kept states"
        self.conversations = conversations
        self.numbers = numbers
        self.policies = [SpeedPolicy(speed.with_tail(tail)) for tail in tails]
        self.states = states
        self.entry_layer = entry_layer
        self.deep_only = entry_layer == speed.prefill_layers
        self.distil = distil
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each conversation."""
        return [len(self.conversations[number].token_ids) for number in self.numbers]

    def __getitem__(self, index: int) -> Example:
        number = self.numbers[index]
        conversation = self.conversations[number]
        policy = self.policies[(number + self.epoch) % len(self.policies)]
        rows = deep_rows(policy, conversation.token_ids, conversation.turns)
        example = {name: torch.tensor(getattr(rows, name)) for name in ("positions", "turns", "labels")}
        if not self.entry_layer:
            example["input_ids"] = torch.tensor(conversation.token_ids)
        if self.states is None:
            return example
        states = self.states.read(number)
        if self.deep_only:
            example["cutoff_states"] = states.entry[_places(rows, self.states.rows(conversation))]
        elif self.entry_layer:
            example["entry_states"] = states.entry
        if self.distil:
            example["teacher_states"] = states.teacher
        return example


def _places(rows: DeepRows, kept: DeepRows) -> list[int]:
    """The index of each row among the kept rows, a superset."""
    place_of = {row: place for place, row in enumerate(zip(kept.turns, kept.positions, strict=True))}
    return [place_of[row] for row in zip(rows.turns, rows.positions, strict=True)]


def join(examples: Sequence[Example]) -> dict[str, Any]:
    """Collate examples into keyword arguments of TrainingModel.forward."""
    batch: dict[str, Any] = {
        name: torch.cat([example[name] for example in examples])
        for name in ("positions", "labels", "cutoff_states", "teacher_states")
        if name in examples[0]
    }
    first_turns = torch.tensor([0, *(int(example["turns"][-1]) + 1 for example in examples[:-1])]).cumsum(0)
    batch["turns"] = torch.cat([example["turns"] + first for example, first in zip(examples, first_turns, strict=True)])
    for name in {"input_ids", "entry_states"} & examples[0].keys():
        batch[name] = pad_sequence([example[name] for example in examples], batch_first=True)
        width = batch[name].shape[1]
        batch["rows"] = torch.cat([example["positions"] + line * width for line, example in enumerate(examples)])
    assert bool((batch["labels"] != IGNORED_LABEL).any()), "a batch without labels"
    return batch
