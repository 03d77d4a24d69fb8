"""Training runs of the tests: chats with given answers, a few steps, and what became of the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from sglang_speed.checkpoints.weights import find_weight_files
from sglang_speed.config import SpeedConfig
from sglang_speed.lab.training.command import train_checkpoint
from sglang_speed.lab.training.record import Record
from sglang_speed.lab.training.settings import Settings, TrainingRun
from tests.unit.training.chats import assistant, user, write_chats

SPEED = SpeedConfig(4, 2, 1, 2)
NUM_CHATS = 10
NUM_HELD_OUT = 2


def settings_of(**changes: Any) -> Settings:
    """Four steps over eight chats, two held out."""
    usual = {"speed": SPEED, "lora_rank": 4, "epochs": 2, "batch_size": 4, "held_out": 0.2}
    rate = {"learning_rate": 1e-2 if changes.get("lora_rank", 4) else 1e-3}
    return Settings(**(usual | rate | changes))


def answered_chats(folder: Path) -> Path:
    """Chats of one and two turns with answers of several lengths."""
    chats = [[user(f"question {number}?"), assistant("so" + " so" * (number % 4))] for number in range(NUM_CHATS)]
    chats[0] += [user("and then?"), assistant("then nothing")]
    return write_chats(folder / "chats.jsonl", chats)


def run(source: Path, folder: Path, settings: Settings, name: str = "trained") -> Record:
    """Train to `folder / name`."""
    return train_checkpoint(
        TrainingRun(source, folder / name, answered_chats(folder), settings, folder / f"{name}.work")
    )


def weights_of(directory: Path) -> dict[str, Tensor]:
    return {name: weight for path in find_weight_files(directory) for name, weight in load_file(path).items()}
