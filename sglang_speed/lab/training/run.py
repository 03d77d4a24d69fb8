"""One training run on transformers' Trainer: which parameters move, by what, and how it goes on after a cut.

Owns the Trainer's arguments and the trainable parameters. Where examples come from and what becomes of the result is
its caller's.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_pt_utils import get_length_grouped_indices
from transformers.trainer_utils import EvalLoopOutput, get_last_checkpoint

from sglang_speed.lab.training.batches import TrainingExamples, join
from sglang_speed.lab.training.progress import TrainingBar
from sglang_speed.lab.training.settings import Settings
from sglang_speed.reference.modeling import IGNORED_LABEL
from sglang_speed.reference.training import SpeedLlamaForTraining

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SAVES_PER_EPOCH = 4


def train(
    model: SpeedLlamaForTraining, examples: TrainingExamples, held_out: TrainingExamples, settings: Settings, work: Path
) -> Any:
    """Train, or go on from the last checkpoint in `work`; returns the Trainer, whose `model` is the trained one.

    Trained parameters are float32 and the others stay as they are; matrix products run in bfloat16 where the
    checkpoint is bfloat16.
    """
    in_bfloat16 = model.dtype == torch.bfloat16
    set_seed(settings.seed)  # LoRA's factors are drawn before the Trainer sets it
    trainable = prepare(model, settings)
    trainer = TurnTrainer(
        model=trainable,
        args=arguments(settings, len(examples), bool(len(held_out)), work, in_bfloat16),
        train_dataset=examples,
        eval_dataset=held_out if len(held_out) else None,
        data_collator=join,
        callbacks=[_TellEpoch(examples)],
    )
    trainer.remove_callback(PrinterCallback)
    bar = TrainingBar()
    trainer.add_callback(bar)
    with bar.progress:
        trainer.train(resume_from_checkpoint=_last_checkpoint(work))
    return trainer


class TurnTrainer(Trainer):
    """The Trainer, with batches of like lengths, and a loss of the held-out chats that is a mean over what is said,
    whatever the batches."""

    def _get_train_sampler(self, train_dataset: Dataset[Any] | None = None) -> Sampler[int]:
        return BatchesOfLikeLength(
            self.train_dataset, self.args.train_batch_size * self.args.gradient_accumulation_steps, self.args.seed
        )

    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        self.model.eval()
        total, num_said = 0.0, 0
        for batch in dataloader:
            inputs = self._prepare_inputs(batch)
            with torch.no_grad(), self.compute_loss_context_manager():
                total += float(self.model(**inputs, num_items_in_batch=1).loss)
            num_said += int((inputs["labels"] != IGNORED_LABEL).sum())
        return EvalLoopOutput(None, None, {f"{metric_key_prefix}_loss": total / num_said}, len(self.eval_dataset))


class BatchesOfLikeLength(Sampler[int]):
    """Little padding in each batch, and batches in random order. transformers' own sampler reads every example for its
    length, begins each epoch with the longest ones, and has another order when a run goes on within an epoch."""

    def __init__(self, examples: TrainingExamples, batch_size: int, seed: int) -> None:
        self.examples = examples
        self.batch_size = batch_size
        self.seed = seed

    def __len__(self) -> int:
        return len(self.examples)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.examples.epoch)
        indices = get_length_grouped_indices(self.examples.lengths, self.batch_size, generator=generator)
        *batches, last = [indices[start : start + self.batch_size] for start in range(0, len(indices), self.batch_size)]
        order = torch.randperm(len(batches), generator=generator).tolist()
        return chain(*(batches[place] for place in order), last)


class _TellEpoch(TrainerCallback):
    """Tells the examples the epoch; accelerate does so too, but not when a run goes on within one."""

    def __init__(self, examples: TrainingExamples) -> None:
        self.examples = examples

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.examples.epoch = int(state.epoch or 0)


def _last_checkpoint(work: Path) -> str | None:
    """The newest finished checkpoint of the Trainer's, which writes its state last; unfinished ones are removed."""
    for folder in work.glob("checkpoint-*"):
        if not (folder / TRAINER_STATE_NAME).is_file():
            shutil.rmtree(folder)
    return get_last_checkpoint(str(work)) if work.is_dir() else None


def prepare(model: SpeedLlamaForTraining, settings: Settings) -> Any:
    """Freeze what is not trained; embedding and head always are. Returns the model, inside peft's where LoRA is on."""
    model.requires_grad_(False)
    first = settings.lowest_layer
    if settings.lora_rank:
        return _with_lora(model, settings, list(range(first, settings.speed.num_layers)))
    for module in (*model.model.layers[first:], model.model.norm):
        module.float().requires_grad_(True)
    return model


def _with_lora(model: SpeedLlamaForTraining, settings: Settings, layers: list[int]) -> Any:
    from peft import LoraConfig, get_peft_model

    model.name_or_path = ""  # peft would read the source's config from there, and it has no bands
    config = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_rank,
        target_modules=list(PROJECTIONS),
        layers_to_transform=layers,
        layers_pattern="layers",
    )
    return get_peft_model(model, config)


def arguments(
    settings: Settings, num_examples: int, evaluates: bool, work: Path, in_bfloat16: bool
) -> TrainingArguments:
    """The Trainer's arguments, for one device."""
    num_steps = settings.epochs * num_examples / (settings.batch_size * settings.accumulate)
    every = max(1, round(num_steps / settings.epochs / SAVES_PER_EPOCH))
    arguments = TrainingArguments(
        output_dir=str(work),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulate,
        learning_rate=settings.step_size,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, round(num_steps * 0.03)),
        weight_decay=0.0,
        bf16=in_bfloat16,
        use_cpu=not torch.cuda.is_available(),
        eval_strategy="steps" if evaluates else "no",
        eval_on_start=evaluates,
        eval_steps=every,
        save_steps=every,
        save_total_limit=1,
        logging_steps=max(1, every // 8),
        report_to=settings.log_to,
        seed=settings.seed,
        label_names=["labels"],
        remove_unused_columns=False,
        prediction_loss_only=True,
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    # with several GPUs the Trainer would split every tensor of a batch among them, in the middle of turns
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments
