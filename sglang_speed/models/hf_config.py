"""The transformers configuration of a SPEED checkpoint.

Owns the `speed_llama` model type. Must not import modeling code, so that a server can register it cheaply.
"""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import AutoConfig, LlamaConfig

from sglang_speed.config import MODEL_TYPE, SpeedConfig
from sglang_speed.errors import HostMismatch


class SpeedLlamaConfig(LlamaConfig):
    """A Llama configuration with a `speed` object; ConfigError where that object is missing or wrong.

    speed: `prefill_layers` and, where they differ from the defaults, `anchor_tokens` and `tail_tokens`. It is kept
    complete, so that a saved checkpoint does not change its meaning when a default changes.
    """

    model_type: ClassVar[str] = MODEL_TYPE
    # transformers builds a default instance to save only what differs from it, unless there is none
    has_no_defaults_at_init: ClassVar[bool] = True

    speed: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.speed = self.speed_config.to_dict()

    @property
    def speed_config(self) -> SpeedConfig:
        return SpeedConfig.from_dict(self.speed, self.num_hidden_layers)


def register() -> None:
    """Let AutoConfig read SPEED checkpoints. Does nothing the second time."""
    AutoConfig.register(MODEL_TYPE, SpeedLlamaConfig, exist_ok=True)


def refuse(reason: str) -> None:
    """Let AutoConfig raise HostMismatch for SPEED checkpoints, with a reason instead of an unknown model type."""

    class RefusedConfig(LlamaConfig):
        model_type: ClassVar[str] = MODEL_TYPE
        has_no_defaults_at_init: ClassVar[bool] = True

        def __post_init__(self, **kwargs: Any) -> None:
            raise HostMismatch(f"{reason}. This is a SPEED model, which needs it")

    AutoConfig.register(MODEL_TYPE, RefusedConfig, exist_ok=True)
