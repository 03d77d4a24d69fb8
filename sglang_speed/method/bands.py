"""The depth bands of a model: which layers belong together."""

from __future__ import annotations

from dataclasses import dataclass

from sglang_speed.config import SpeedConfig

SHALLOW, DEEP = "shallow", "deep"


@dataclass(frozen=True)
class DepthBand:
    """Decoder layers `first_layer .. end_layer - 1`."""

    name: str
    first_layer: int
    end_layer: int

    @property
    def num_layers(self) -> int:
        return self.end_layer - self.first_layer


def depth_bands(config: SpeedConfig) -> tuple[DepthBand, ...]:
    """The bands from the bottom up: shallow, then deep unless the model is the stock one."""
    shallow = DepthBand(SHALLOW, 0, config.prefill_layers)
    if config.is_stock:
        return (shallow,)
    return shallow, DepthBand(DEEP, config.prefill_layers, config.num_layers)
