"""Prefill and decode on different servers. Refused: only the main pool's KV is transferred."""

from __future__ import annotations

from sglang_speed.features.base import Feature, Refusal, is_not

FEATURE = Feature(
    name="PD disaggregation",
    refusals=(Refusal("--disaggregation-mode", is_not("disaggregation_mode", "null"), "deep KV would not travel"),),
)
