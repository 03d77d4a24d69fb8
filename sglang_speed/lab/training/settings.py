"""The settings of a training run, and their checks."""

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
"""Defaults. Low-rank factors start at zero and take larger steps than full weights."""


class Objective(StrEnum):
    """distil: KL from the same model at full depth, on its own answers. sft: cross-entropy of given answers."""

    DISTIL = "distil"
    SFT = "sft"


@dataclass(frozen=True, kw_only=True)
class Settings(Hyperparameters):
    """Hyperparameters for one checkpoint.

    first_layer: None: the cutoff. Then only the deep band is trained, on kept cutoff states, with the shallow KV of the
        source. Lower layers can learn to carry what deep layers no longer see.
    tails: tail lengths to train with, alternating by epoch; the checkpoint is served with `speed.tail_tokens`.
    concurrency: chats answered at a time. log_to: a reporter of transformers' Trainer, or "none".
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
                f"prefill_layers={self.speed.prefill_layers} is every layer, so there is nothing to train: choose fewer"
            )
        if self.first_layer is not None and not 0 <= self.first_layer <= self.speed.prefill_layers:
            raise ConfigError(
                f"first_layer={self.first_layer} is not between 0 and {self.speed.prefill_layers}: it is the lowest "
                "trained layer; omit it to train only the layers from the cutoff on"
            )
        if self.span_tokens and self.objective != Objective.DISTIL:
            raise ConfigError(
                f"span_tokens={self.span_tokens} needs --objective distil: on prompt tokens, the model learns full "
                "depth's predictions, not the text"
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
            raise ConfigError(f"held_out={self.held_out} is not in [0, 1): it is a share of the chats")
        if self.epochs <= 0:
            raise ConfigError(f"epochs={self.epochs} is not above 0: it is how often each chat is seen")
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
        """Whether hidden states of the frozen model are computed before training."""
        return self.objective == Objective.DISTIL or self.lowest_layer > 0

    @property
    def lowest_layer(self) -> int:
        return self.speed.prefill_layers if self.first_layer is None else self.first_layer

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class TrainingRun:
    """One call of `sglang-speed train`.

    source: an untrained checkpoint. destination: must be absent or empty. data: chats as JSON lines.
    work: working folder, from which an interrupted run continues.
    url: a full-depth server of the source that writes open messages; None: start one if there are any.
    """

    source: Path
    destination: Path
    data: Path
    settings: Settings
    work: Path
    url: str | None = None
    server_flags: Sequence[str] = ()


def _require_reporter(name: str) -> None:
    """Raise ConfigError for a reporter that is unknown to transformers or not installed."""
    from transformers.integrations.integration_utils import get_available_reporting_integrations

    known = ["none", *get_available_reporting_integrations()]
    if name not in known:
        raise ConfigError(f"--log-to {name} is not one of {', '.join(known)}: choose one of these, or install it")
