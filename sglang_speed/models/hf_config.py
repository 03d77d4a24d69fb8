"""The transformers configuration of a SPEED checkpoint: that of its architecture, with a `speed` object.

Owns the model types `speed_llama` and so on. Must not import modeling code, so that a server can register them cheaply.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from sglang_speed.config import SpeedConfig
from sglang_speed.errors import ConfigError, HostMismatch
from sglang_speed.models.architectures import ARCHITECTURES, Architecture, known_architecture


class _WithBands:
    """What a configuration with a `speed` object adds; ConfigError where that object is missing or wrong.

    speed: `prefill_layers` and, where they differ from the defaults, `anchor_tokens` and `tail_tokens`. It is kept
    complete, so that a saved checkpoint does not change its meaning when a default changes.
    """

    # transformers builds a default instance to save only what differs from it, unless there is none
    has_no_defaults_at_init: ClassVar[bool] = True
    speed: dict[str, Any] | None
    num_hidden_layers: int

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)  # type: ignore[misc]
        self.speed = self.speed_config.to_dict()

    @property
    def speed_config(self) -> SpeedConfig:
        return SpeedConfig.from_dict(self.speed, self.num_hidden_layers)


@cache
def config_class(architecture: Architecture) -> Any:
    """The configuration class of an architecture with depth bands."""

    stock: Any = CONFIG_MAPPING[architecture.model_type]

    class Banded(_WithBands, stock):
        model_type: ClassVar[str] = architecture.speed_model_type
        speed: dict[str, Any] | None = None

    Banded.__name__ = Banded.__qualname__ = f"Speed{stock.__name__}"
    return Banded


def config_of(config: Mapping[str, Any]) -> PreTrainedConfig:
    """The configuration that a SPEED checkpoint's config.json, as a mapping, describes."""
    return config_class(known_architecture(config)).from_dict(dict(config))


def architecture_of_class(config: PreTrainedConfig) -> Architecture:
    """The row of a configuration with depth bands, by its class: its names may have been overridden."""
    return next(row for row in ARCHITECTURES.values() if isinstance(config, config_class(row)))


def as_stock(config: PreTrainedConfig) -> PreTrainedConfig:
    """The stock configuration of a SPEED checkpoint's, which still has the `speed` object.

    A host keys its behaviour on a model's type, name and configuration class, and the layers are the stock model's.
    ConfigError where `config` says another name than its checkpoint, which would be another model or depth.
    """
    architecture = architecture_of_class(config)
    names = {"model_type": config.model_type, "architectures": config.architectures}
    if names != {"model_type": architecture.speed_model_type, "architectures": [architecture.speed_name]}:
        raise ConfigError(
            f"sglang_speed: the checkpoint would be served as {names}, which is another model or another depth; it has "
            f"model_type {architecture.speed_model_type} and architectures [{architecture.speed_name}]: leave both out "
            "of --json-model-override-args, or convert the checkpoint again"
        )
    stock = {**config.to_dict(), "model_type": architecture.model_type, "architectures": [architecture.name]}
    return CONFIG_MAPPING[architecture.model_type].from_dict(stock)


def register() -> None:
    """Let AutoConfig read SPEED checkpoints. Does nothing the second time."""
    for architecture in ARCHITECTURES.values():
        AutoConfig.register(architecture.speed_model_type, config_class(architecture), exist_ok=True)


def refuse(reason: str) -> None:
    """Let AutoConfig raise HostMismatch for SPEED checkpoints, with a reason instead of an unknown model type."""
    for architecture in ARCHITECTURES.values():
        AutoConfig.register(architecture.speed_model_type, _refusing(architecture, reason), exist_ok=True)


def _refusing(architecture: Architecture, reason: str) -> Any:
    class Refused(PreTrainedConfig):
        model_type: ClassVar[str] = architecture.speed_model_type
        has_no_defaults_at_init: ClassVar[bool] = True

        def __post_init__(self, **kwargs: Any) -> None:
            raise HostMismatch(f"{reason}. This is a SPEED model, which needs it")

    return Refused


SpeedLlamaConfig = config_class(ARCHITECTURES["llama"])
