"""The depth bands of a model: which layers belong together."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from sglang_speed.config import SpeedConfig

SHALLOW, DEEP, THINNED = "shallow", "deep", "thinned"


@dataclass(frozen=True)
class DepthBand:
    """Decoder layers `first_layer .. end_layer - 1`."""

    name: str
    first_layer: int
    end_layer: int

    @property
    def num_layers(self) -> int:
        return self.end_layer - self.first_layer


def thinned_band(config: SpeedConfig) -> DepthBand:
    """All layers, as tokens behind a thinned context see them."""
    return DepthBand(THINNED, 0, config.num_layers)


def depth_bands(config: SpeedConfig) -> tuple[DepthBand, ...]:
    """The bands from the bottom up: shallow, then a deep one for each cutoff; several are called deep1, deep2 ..."""
    names = [DEEP] if len(config.cutoffs) == 1 else [f"{DEEP}{number + 1}" for number in range(len(config.cutoffs))]
    ranges = pairwise((*config.cutoffs, config.num_layers))
    deep = (DepthBand(name, *layers) for name, layers in zip(names, ranges, strict=True))
    return DepthBand(SHALLOW, 0, config.prefill_layers), *deep
