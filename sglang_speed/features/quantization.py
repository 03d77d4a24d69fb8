"""Weights of fewer bits: those of quantized checkpoints. What SGLang would quantize at start-up is refused.

The layers are SGLang's own in every band. What a checkpoint says of the KV cache is in `kv_cache_dtype`.
"""

from __future__ import annotations

from typing import Any

from sglang_speed.checkpoints.hub import checkpoint_directory
from sglang_speed.features.base import Feature, Refusal, on
from sglang_speed.host.versions import NEWEST, OLDEST
from sglang_speed.quantization import METHODS, OTHER_NAMES, quantization_at

_AT_START = "weights that are quantized at start-up are not proven in both bands"
_NOT_THERE = "quantized weights are not proven in both bands with this SGLang"
RUNS_AS = (*METHODS, *OTHER_NAMES)
"""Names under which SGLang runs what is served."""


def method_of(args: Any) -> str | None:
    """As SGLang has resolved it, from the flag or from the checkpoint."""
    method: str | None = args.get_model_config().quantization or args.quantization
    return method


def _is_another(args: Any) -> bool:
    return method_of(args) not in (None, *RUNS_AS)


def _is_quantized_at_start(args: Any) -> bool:
    directory = checkpoint_directory(args.model_path, args.revision)
    return method_of(args) is not None and quantization_at(directory) is None


def _message_of_method(args: Any) -> str:
    return (
        f"--quantization {method_of(args)} is not supported with a SPEED model (it is not proven in both bands); serve "
        f"a checkpoint that is quantized by one of {', '.join(METHODS)}"
    )


def _message_at_start(args: Any) -> str:
    return (
        f"--quantization {method_of(args)} is not supported with a SPEED model whose checkpoint is not quantized "
        f"({_AT_START}); leave it out, or serve a quantized checkpoint"
    )


FEATURE = Feature(
    name="quantized weights",
    served=(f"checkpoints in {', '.join(METHODS)}",),
    proof=("tests/inprocess/parity/test_quantized.py", "tests/gpu/test_quantized.py"),
    refusals=(
        Refusal("--torchao-config", on("torchao_config"), _AT_START, versions=(OLDEST,)),
        Refusal("--modelopt-quant", on("modelopt_quant"), _AT_START),
        Refusal("--quantize-and-serve", on("quantize_and_serve"), _AT_START),
        Refusal(
            "--quantization (or quantization_config in config.json)",
            lambda args: method_of(args) is not None,
            _NOT_THERE,
            versions=(OLDEST,),
        ),
        Refusal(
            "--quantization by other methods",
            _is_another,
            "they are not proven in both bands",
            message=_message_of_method,
            versions=(NEWEST,),
        ),
        Refusal(
            "--quantization of a checkpoint that is not quantized",
            _is_quantized_at_start,
            _AT_START,
            message=_message_at_start,
            versions=(NEWEST,),
        ),
    ),
    note="new weights for a running server are refused; on a CPU matrices are dequantized as they are loaded; "
    "[which formats](quantization.md)",
)
