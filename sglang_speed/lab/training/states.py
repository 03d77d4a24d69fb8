"""The hidden states that training needs of the frozen model, computed once and kept on disk.

One pass of the source model at full depth over a conversation gives both: what enters the lowest layer that is
trained, so that no step runs the layers below it, and the teacher's last states, which the head turns into its logits.
Owns the folder of state files. Where the deep band alone is trained, only its rows are
kept: those of the longest tail; a shorter one leaves rows out.
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
from sglang_speed.reference.training import DeepRows, SpeedLlamaForTraining, deep_rows


@dataclass(frozen=True)
class States:
    """Of one conversation.

    entry: what enters the lowest trained layer, [num_tokens, hidden_size]; [num_rows, hidden_size] where that layer is
        the cutoff; [0, hidden_size] where it is the first one, which token ids enter as well.
    teacher: [num_labels, hidden_size], after the norm.
    """

    entry: Tensor
    teacher: Tensor


@torch.no_grad()
def capture(model: SpeedLlamaForTraining, conversation: Conversation, rows: DeepRows) -> States:
    """Both states, by a forward of every token through every layer."""
    entry = model.entry_states(torch.tensor([conversation.token_ids], device=model.device))
    last = model.full_depth_states(model.cutoff_states(entry))
    said = [position for position, label in zip(rows.positions, rows.labels, strict=True) if label != IGNORED_LABEL]
    kept = entry[0, _kept_tokens(model, conversation, rows)]
    return States(kept.cpu(), last[0, said].cpu())


def _kept_tokens(model: SpeedLlamaForTraining, conversation: Conversation, rows: DeepRows) -> list[int]:
    if model.entry_layer == 0:
        return []
    if model.entry_layer == model.bands[0].end_layer:
        return list(rows.positions)
    return list(range(len(conversation.token_ids)))


class StateFolder:
    """State files of a run's conversations, one each, so that a run that was cut short goes on."""

    def __init__(self, folder: Path, policy: SpeedPolicy) -> None:
        self.folder = folder
        self.policy = policy

    def capture_all(self, model: SpeedLlamaForTraining, conversations: Sequence[Conversation]) -> Iterator[int]:
        """Capture what is missing; yields how many are there after each."""
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
