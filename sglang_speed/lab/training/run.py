"""One training run on transformers' Trainer: trainable parameters, arguments, and resuming.

Knows neither where examples come from nor what becomes of the result.
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
from sglang_speed.reference.training import TrainingModel

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SAVES_PER_EPOCH = 4


def train(
    model: TrainingModel, examples: TrainingExamples, held_out: TrainingExamples, settings: Settings, work: Path
) -> Any:
    """Train, or continue from the last checkpoint in `work`; returns the Trainer with the trained `model`.

    Trained parameters are float32, frozen ones keep their dtype; matrix products run in bfloat16 if the checkpoint is
    bfloat16.
    """
    in_bfloat16 = model.dtype == torch.bfloat16
    set_seed(settings.seed)  # LoRA's factors are initialised before the Trainer sets the seed
    trainable = prepare(model, settings)
    trainer = TurnTrainer(
        model=trainable,
        args=arguments(settings, len(examples), bool(len(held_out)), work, in_bfloat16),
        train_dataset=examples,
        eval_dataset=held_out if len(held_out) else None,
        data_collator=join,
        callbacks=[_EpochCallback(examples)],
    )
    trainer.remove_callback(PrinterCallback)
    bar = TrainingBar()
    trainer.add_callback(bar)
    with bar.progress:
        trainer.train(resume_from_checkpoint=_last_checkpoint(work))
    return trainer


class TurnTrainer(Trainer):
    """A Trainer with batches of similar lengths, whose evaluation loss is the mean over answer tokens, whatever the
    batches."""

    def _get_train_sampler(self, train_dataset: Dataset[Any] | None = None) -> Sampler[int]:
        return LengthGroupedSampler(
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


class LengthGroupedSampler(Sampler[int]):
    """Batches of similar lengths, for little padding, in random order. transformers' own sampler reads every example
    for its length, starts each epoch with the longest, and changes the order when a run continues within an epoch."""

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


class _EpochCallback(TrainerCallback):
    """Sets the epoch of the examples; accelerate does not if a run continues within an epoch."""

    def __init__(self, examples: TrainingExamples) -> None:
        self.examples = examples

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.examples.epoch = int(state.epoch or 0)


def _last_checkpoint(work: Path) -> str | None:
    """The newest complete checkpoint of the Trainer, which writes its state file last; incomplete ones are removed."""
    for folder in work.glob("checkpoint-*"):
        if not (folder / TRAINER_STATE_NAME).is_file():
            shutil.rmtree(folder)
    return get_last_checkpoint(str(work)) if work.is_dir() else None


def prepare(model: TrainingModel, settings: Settings) -> Any:
    """Freeze all but the trained layers, embedding and head included. Returns the model, with LoRA as a peft model."""
    model.requires_grad_(False)
    first = settings.lowest_layer
    if settings.lora_rank:
        return _with_lora(model, settings, list(range(first, settings.speed.num_layers)))
    for module in (*model.model.layers[first:], model.model.norm):
        module.float().requires_grad_(True)
    return model


def _with_lora(model: TrainingModel, settings: Settings, layers: list[int]) -> Any:
    from peft import LoraConfig, get_peft_model

    model.name_or_path = ""  # or peft would read the source's config, which has no bands
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
    # with several GPUs the Trainer would split each tensor of a batch among them, also within turns
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments
