"""Terminal output of `sglang-speed train`: its console and progress bar."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sglang_speed.lab.common.progress import progress_bars

console = Console(stderr=True)


def count(num: int, noun: str) -> str:
    """`1 chat`, `2 chats`."""
    return f"{num} {noun}" if num == 1 else f"{num} {noun}s"


class TrainingBar(TrainerCallback):
    """A bar of the Trainer's steps with the last losses; without a terminal, a line per logged loss.

    The caller starts and stops `progress`.
    """

    def __init__(self) -> None:
        self.progress = progress_bars(console, TimeRemainingColumn())
        self.task = self.progress.add_task("Training", total=None)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.progress.update(self.task, total=state.max_steps, completed=state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.progress.update(self.task, completed=state.global_step)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        last = {name: entry[name] for entry in state.log_history for name in ("loss", "eval_loss") if name in entry}
        said = ", ".join(f"{name.replace('eval_loss', 'held out')} {value:.4f}" for name, value in last.items())
        self.progress.update(self.task, description=f"Training ({said})" if said else "Training")
        if said and not console.is_terminal:
            console.print(f"step {state.global_step} of {state.max_steps}: {said}")
