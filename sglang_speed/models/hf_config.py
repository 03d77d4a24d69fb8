"""The transformers configuration of a SPEED checkpoint: that of its architecture, with a `speed` object.

Owns the model types `speed_llama` and so on. Must not import modeling code, so that a server can register them cheaply.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, ClassVar

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from sglang_speed.config import SpeedConfig
from sglang_speed.errors import ConfigError, HostMismatch
from sglang_speed.models.architectures import ARCHITECTURES, Architecture, known_architecture

_reads_stock: ContextVar[list[Architecture] | None] = ContextVar("reads_stock", default=None)


@contextmanager
def read_as_stock() -> Iterator[list[Architecture]]:
    """Until the block ends, SPEED checkpoints are read as `as_stock` gives them; gives the rows of those that were.

    So that what a host does with the configurations of an architecture as it reads them, it does with these too.
    """
    read: list[Architecture] = []
    token = _reads_stock.set(read)
    try:
        yield read
    finally:
        _reads_stock.reset(token)


class _WithBands:
    """What a configuration with a `speed` object adds; ConfigError where that object is missing or wrong.

    speed: `prefill_layers` and, where they differ from the defaults, `anchor_tokens` and `tail_tokens`. It is kept
    complete, so that a saved checkpoint does not change its meaning when a default changes.
    """

    # transformers builds a default instance to save only what differs from it, unless there is none
    has_no_defaults_at_init: ClassVar[bool] = True
    speed: dict[str, Any] | None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)  # type: ignore[misc]
        self.speed = self.speed_config.to_dict()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        read: Any = super().from_dict(config_dict, **kwargs)  # type: ignore[misc]
        as_read = _reads_stock.get()
        if as_read is None:
            return read
        as_read.append(architecture_of_class(read[0] if isinstance(read, tuple) else read))
        return (as_stock(read[0]), *read[1:]) if isinstance(read, tuple) else as_stock(read)

    @property
    def speed_config(self) -> SpeedConfig:
        return SpeedConfig.from_dict(self.speed, num_layers_of(self))


def num_layers_of(config: Any) -> int:
    """Layers of the decoder that a transformers configuration describes."""
    num_layers: int = config.get_text_config(decoder=True).num_hidden_layers
    return num_layers


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
    ConfigError where the checkpoint names another class than its model type.
    """
    architecture = architecture_of_class(config)
    require_names(architecture, {"model_type": config.model_type, "architectures": config.architectures})
    stock = {**config.to_dict(), "model_type": architecture.model_type, "architectures": [architecture.name]}
    return CONFIG_MAPPING[architecture.model_type].from_dict(stock)


def require_names(architecture: Architecture, names: Mapping[str, Any]) -> None:
    """ConfigError unless a checkpoint is served under its own names, which say that it has bands."""
    own = {"model_type": architecture.speed_model_type, "architectures": [architecture.speed_name]}
    if names != {key: own[key] for key in names}:
        raise ConfigError(
            f"sglang_speed: the checkpoint would be served as {dict(names)}, which is another model or another depth; "
            f"it has model_type {architecture.speed_model_type} and architectures [{architecture.speed_name}]: leave "
            "both out of --json-model-override-args, or convert the checkpoint again"
        )


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
