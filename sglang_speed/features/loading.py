"""How weights come into the model. Safetensors (and random weights, for benchmarks) by SGLang's own loader only."""

from __future__ import annotations

from typing import Any

from sglang_speed.features.base import Feature, Refusal, is_not, on
from sglang_speed.host.versions import NEWEST

MODEL_IMPLS = ("auto", "sglang")
LOAD_FORMATS = ("auto", "safetensors", "dummy")
"""Also of weights that come while serving."""

_REASON = "not proven in both bands"


def _is_another_format(args: Any) -> bool:
    """bitsandbytes has a loader of its own, for its own checkpoints."""
    own = ("bitsandbytes",) if args.get_model_config().quantization == "bitsandbytes" else ()
    return args.load_format not in (*LOAD_FORMATS, *own)


FEATURE = Feature(
    name="loading of weights",
    served=(f"--load-format {', '.join(LOAD_FORMATS)}", f"--model-impl {', '.join(MODEL_IMPLS)}"),
    proof=("tests/inprocess/parity/test_every_setting.py", "tests/inprocess/parity/test_new_weights.py"),
    gpu="Triton; FlashInfer in part",
    refusals=(
        Refusal("--model-impl", is_not("model_impl", *MODEL_IMPLS), "it would serve the model at full depth"),
        Refusal("--load-format", _is_another_format, _REASON),
        Refusal(
            "--startup-weight-load-mode", is_not("startup_weight_load_mode", "serial"), _REASON, versions=(NEWEST,)
        ),
        Refusal("--custom-weight-loader", on("custom_weight_loader"), _REASON),
        Refusal("--weight-cache-mode", is_not("weight_cache_mode", "off"), _REASON),
        Refusal("--rl-quant-profile", on("rl_quant_profile"), "its loader would skip the deep layers"),
    ),
)
