"""The training model of a plain checkpoint."""

from __future__ import annotations

from pathlib import Path

from sglang_speed.checkpoints.convert import read_source_config, speed_model_config
from sglang_speed.config import SpeedConfig
from sglang_speed.reference import SpeedLlamaConfig
from sglang_speed.reference.training import SpeedLlamaForTraining


def for_training(source: Path, speed: SpeedConfig) -> SpeedLlamaForTraining:
    """Its weights under other bands."""
    config = SpeedLlamaConfig(**speed_model_config(read_source_config(source), speed))
    return SpeedLlamaForTraining.from_pretrained(source, config=config).eval()
