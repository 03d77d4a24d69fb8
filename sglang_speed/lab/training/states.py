"""Hidden states of the frozen model for training, computed once and kept on disk.

One full-depth pass over a conversation gives both: the input of the lowest trained layer, so that training steps skip
the layers below, and the teacher's last states, from which the head makes logits. If only the deep band is trained,
only its rows are kept, for the longest tail; shorter tails use fewer of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from sglang_speed.checkpoints.atomic import new_file
from sglang_speed.lab.common.chat import Conversation
from sglang_speed.policies import SpeedPolicy
from sglang_speed.reference.modeling import IGNORED_LABEL
from sglang_speed.reference.training import DeepRows, TrainingModel, deep_rows


@dataclass(frozen=True)
class States:
    """The states of one conversation.

    entry: input of the lowest trained layer, [num_tokens, hidden_size]; [num_rows, hidden_size] if that layer is the
        cutoff; [0, hidden_size] if it is layer 0, whose input follows from token ids.
    teacher: [num_labels, hidden_size], after the norm.
    """

    entry: Tensor
    teacher: Tensor


@torch.no_grad()
def capture(model: TrainingModel, conversation: Conversation, rows: DeepRows) -> States:
    """Compute both by a forward pass of all tokens through all layers."""
    entry = model.entry_states(torch.tensor([conversation.token_ids], device=model.device))
    last = model.full_depth_states(model.cutoff_states(entry))
    said = [position for position, label in zip(rows.positions, rows.labels, strict=True) if label != IGNORED_LABEL]
    kept = entry[0, _kept_tokens(model, conversation, rows)]
    return States(kept.cpu(), last[0, said].cpu())


def _kept_tokens(model: TrainingModel, conversation: Conversation, rows: DeepRows) -> list[int]:
    if model.entry_layer == 0:
        return []
    if model.entry_layer == model.bands[0].end_layer:
        return list(rows.positions)
    return list(range(len(conversation.token_ids)))


class StateFolder:
    """One state file per conversation, so that an interrupted run continues."""

    def __init__(self, folder: Path, policy: SpeedPolicy) -> None:
        self.folder = folder
        self.policy = policy

    def capture_all(self, model: TrainingModel, conversations: Sequence[Conversation]) -> Iterator[int]:
        """Capture missing states; yields the number done after each conversation."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for number, conversation in enumerate(conversations):
            path = self._path(number)
            if not path.exists():
                states = capture(model, conversation, self.rows(conversation))
                with new_file(path) as half_written:
                    save_file({"entry": states.entry, "teacher": states.teacher}, half_written)
            yield number + 1

    def rows(self, conversation: Conversation) -> DeepRows:
        return deep_rows(self.policy, conversation.token_ids, conversation.turns)

    def read(self, number: int) -> States:
        with safe_open(self._path(number), framework="pt") as file:
            return States(file.get_tensor("entry"), file.get_tensor("teacher"))

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.safetensors"
