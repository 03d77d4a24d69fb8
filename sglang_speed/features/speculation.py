"""Steps that decode more than one token: speculative decoding and diffusion models. Refused."""

from __future__ import annotations

from sglang_speed.features.base import Feature, Refusal, is_not, on

_NO_ROWS = "draft tokens have no deep rows yet"

FEATURE = Feature(
    name="speculative decoding, diffusion models",
    refusals=(
        Refusal("--speculative-algorithm", on("speculative_algorithm"), _NO_ROWS),
        Refusal("--decoupled-spec-role", is_not("decoupled_spec_role", "null"), _NO_ROWS),
        Refusal("--dllm-algorithm", on("dllm_algorithm"), "a diffusion model has no decode phase"),
    ),
)
