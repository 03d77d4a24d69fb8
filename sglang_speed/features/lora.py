"""LoRA adapters, chosen by each request. Refused: anchors of two adapters would be taken for the same."""

from __future__ import annotations

from sglang_speed.features.base import Feature, Refusal, on

_REASON = "adapters change the anchors' deep KV"

FEATURE = Feature(
    name="LoRA",
    refusals=(
        Refusal("--enable-lora", on("enable_lora"), _REASON),
        Refusal("--lora-paths", on("lora_paths"), _REASON),
    ),
)
