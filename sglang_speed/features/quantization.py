"""Weights of fewer bits. Refused, by flag and by what the checkpoint says."""

from __future__ import annotations

from typing import Any

from sglang_speed.features.base import Feature, Refusal, on
from sglang_speed.host.versions import OLDEST

_REASON = "quantized weights are not proven in both bands"


def _is_quantized(args: Any) -> bool:
    return bool(args.quantization or args.get_model_config().quantization)


FEATURE = Feature(
    name="quantized weights",
    refusals=(
        Refusal("--torchao-config", on("torchao_config"), _REASON, versions=(OLDEST,)),
        Refusal("--modelopt-quant", on("modelopt_quant"), _REASON),
        Refusal("--quantize-and-serve", on("quantize_and_serve"), _REASON),
        Refusal("--quantization (or quantization_config in config.json)", _is_quantized, _REASON),
    ),
)
