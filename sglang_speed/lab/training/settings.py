"""What a training run is asked for. Owns the checks; ConfigError names the value, the rule and the fix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from sglang_speed.config import SpeedConfig
from sglang_speed.errors import ConfigError
from sglang_speed.lab.training.answers import Sampling
from sglang_speed.lab.training.options import Hyperparameters

LEARNING_RATES = {"lora": 5e-4, "full": 5e-5}
"""Where none is given: low-rank factors start at zero and take larger steps than weights."""


class Objective(StrEnum):
    """distil: KL from the same model at full depth, over what it says itself. sft: cross-entropy of given answers."""

    DISTIL = "distil"
    SFT = "sft"


@dataclass(frozen=True, kw_only=True)
class Settings(Hyperparameters):
    """A training run: its hyperparameters, and what they mean for one checkpoint.

    first_layer: None is the cutoff: the deep band alone, on kept cutoff states, with the shallow KV of the source.
        Lower layers can learn to bring along what deep layers no longer see.
    tails: each conversation is trained under one of them, another in every epoch; the checkpoint serves with
        `speed.tail_tokens`.
    concurrency: chats that are answered at once. log_to: a reporter of transformers' Trainer, or "none".
    """

    speed: SpeedConfig
    tails: tuple[int, ...] = ()
    concurrency: int = 32
    log_to: str = "none"

    def __post_init__(self) -> None:
        if self.objective not in [*Objective]:
            raise ConfigError(f"--objective {self.objective} is not one of {', '.join(Objective)}: choose one of these")
        if self.speed.is_stock:
            raise ConfigError(
                f"prefill_layers={self.speed.prefill_layers} is every layer: the model is at full depth as it is; "
                "choose fewer"
            )
        if self.first_layer is not None and not 0 <= self.first_layer <= self.speed.prefill_layers:
            raise ConfigError(
                f"first_layer={self.first_layer} is not between 0 and {self.speed.prefill_layers}: it is the lowest "
                "layer that is trained, and all from the cutoff on are; leave it out to train these alone"
            )
        if self.span_tokens and self.objective != Objective.DISTIL:
            raise ConfigError(
                f"span_tokens={self.span_tokens} goes with --objective distil: the words of a prompt are not the "
                "model's to learn, only what full depth says after each of them"
            )
        self._require_numbers()
        _require_reporter(self.log_to)
        for tail in self.all_tails:
            self.speed.with_tail(tail)

    def _require_numbers(self) -> None:
        for key, least in (
            ("batch_size", 1),
            ("accumulate", 1),
            ("lora_rank", 0),
            ("span_tokens", 0),
            ("max_tokens", 2),
            ("answer_tokens", 1),
            ("temperature", 0),
            ("seed", 0),
        ):
            if getattr(self, key) < least:
                raise ConfigError(f"{key}={getattr(self, key)} is below {least}: raise it")
        if not 0 <= self.held_out < 1:
            raise ConfigError(f"held_out={self.held_out} is not in [0, 1): it is a share of the conversations")
        if self.epochs <= 0:
            raise ConfigError(f"epochs={self.epochs} is not above 0: it is how often each conversation is seen")
        if self.learning_rate is not None and self.learning_rate <= 0:
            raise ConfigError(f"learning_rate={self.learning_rate} is not above 0")

    @property
    def all_tails(self) -> tuple[int, ...]:
        return self.tails or (self.speed.tail_tokens,)

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.answer_tokens, self.concurrency)

    @property
    def step_size(self) -> float:
        return self.learning_rate or LEARNING_RATES["lora" if self.lora_rank else "full"]

    @property
    def keeps_states(self) -> bool:
        """Whether the frozen model's states are computed before training."""
        return self.objective == Objective.DISTIL or self.lowest_layer > 0

    @property
    def lowest_layer(self) -> int:
        return self.speed.prefill_layers if self.first_layer is None else self.first_layer

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class TrainingRun:
    """One call of `sglang-speed train`.

    source: a checkpoint that was not trained for a cutoff. destination: must be absent or empty. data: chats as JSON
        lines. work: the folder in which a run that was interrupted continues.
    url: a server of the source at full depth, which writes missing answers; None starts one if there are any.
    """

    source: Path
    destination: Path
    data: Path
    settings: Settings
    work: Path
    url: str | None = None
    server_flags: Sequence[str] = ()


def _require_reporter(name: str) -> None:
    """ConfigError for a reporter that transformers does not know or that is not installed."""
    from transformers.integrations.integration_utils import get_available_reporting_integrations

    known = ["none", *get_available_reporting_integrations()]
    if name not in known:
        raise ConfigError(f"--log-to {name} is not one of {', '.join(known)}: choose one of these, or install it")
