"""Layers on different devices, one stage after the other. Refused."""

from __future__ import annotations

from sglang_speed.features.base import Feature, Refusal, above_one

FEATURE = Feature(
    name="pipeline parallelism",
    refusals=(Refusal("--pp-size", above_one("pp_size"), "the bands are not cut into stages"),),
)
