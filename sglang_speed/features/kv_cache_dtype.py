"""Kinds of numbers in the KV pools: one for both bands. 16 bits and fp8 are served, with the scales of a quantized
checkpoint where it has some."""

from __future__ import annotations

from typing import Any

import torch

from sglang_speed.checkpoints.hub import checkpoint_directory
from sglang_speed.features.base import Feature, Refusal, is_not, on
from sglang_speed.quantization import quantization_at
from sglang_speed.served import speed_of

KV_CACHE_DTYPES = ("auto", "bf16", "bfloat16", "fp8_e4m3", "fp8_e5m2")
FP8_DTYPES = ("fp8_e4m3", "fp8_e5m2")
FP8_QUERY_BACKEND = "fa3"
"""With an fp8 KV cache it rounds queries too, and its kernels take e4m3 only and answer in bfloat16."""


def resolved_dtype(args: Any) -> str:
    """What the KV cache will hold: with `auto`, what a quantized checkpoint says."""
    if args.kv_cache_dtype != "auto":
        return str(args.kv_cache_dtype)
    found = quantization_at(checkpoint_directory(args.model_path, args.revision))
    return "fp8_e4m3" if found is not None and found.has_fp8_cache else "auto"


def _does_not_fit_backend(args: Any) -> bool:
    """SGLang swaps FA3 for e5m2 only where the backend was not named for one phase."""
    dtype = resolved_dtype(args)
    if dtype not in FP8_DTYPES or FP8_QUERY_BACKEND not in args.get_attention_backends():
        return False
    return dtype != "fp8_e4m3" or args.get_model_config().dtype != torch.bfloat16


def _rounds_more_than_computed(args: Any) -> bool:
    speed = speed_of(args.get_model_config().hf_config)
    return speed is not None and speed.stores_uncomputed and resolved_dtype(args) in FP8_DTYPES


def _message_of_more(args: Any) -> str:
    speed = speed_of(args.get_model_config().hf_config)
    assert speed is not None, "only a SPEED model is refused"
    with_messages = "" if speed.messages is None else " and --deep-message-tokens"
    by_checkpoint = args.kv_cache_dtype == "auto"
    said = f"--kv-cache-dtype {resolved_dtype(args)}{', which the checkpoint says,' if by_checkpoint else ''}"
    return (
        f"{said} is not supported with policy {speed.policy}{with_messages} (keys and values that are filled in, and "
        "hidden states beside them, are not proven in fp8); "
        f"{'add --kv-cache-dtype bfloat16' if by_checkpoint else 'leave it out'}, or convert the model with --policy "
        "speed alone"
    )


def _message(args: Any) -> str:
    return (
        f"--kv-cache-dtype {resolved_dtype(args)} in a {args.get_model_config().dtype} model is not supported with "
        f"--attention-backend {FP8_QUERY_BACKEND}, whose kernels take fp8_e4m3 in bfloat16 models only; choose that, "
        "or --attention-backend flashinfer or triton"
    )


FEATURE = Feature(
    name="KV cache dtypes",
    served=(f"--kv-cache-dtype {', '.join(KV_CACHE_DTYPES)}",),
    proof=(
        "tests/inprocess/parity/test_fp8_kv.py",
        "tests/inprocess/parity/test_quantized.py",
        "tests/inprocess/parity/test_fp8_gpu_backends.py",
        "tests/gpu/test_fp8_kv.py",
    ),
    gpu="Triton",
    refusals=(
        Refusal(
            "--kv-cache-dtype",
            is_not("kv_cache_dtype", *KV_CACHE_DTYPES),
            f"not proven in both bands; {', '.join(KV_CACHE_DTYPES)} are",
        ),
        Refusal(
            "--quantization-param-path",
            on("quantization_param_path"),
            "scales of a file of their own are not proven in both bands; those of a quantized checkpoint are",
        ),
        Refusal(
            f"--kv-cache-dtype with --attention-backend {FP8_QUERY_BACKEND}",
            _does_not_fit_backend,
            "its kernels take fp8_e4m3 in bfloat16 models only",
            message=_message,
            at_full_depth=False,
        ),
        Refusal(
            f"--kv-cache-dtype {', '.join(FP8_DTYPES)} with policy pop or fastkv, or short messages",
            _rounds_more_than_computed,
            "keys and values that are filled in, and hidden states, are not proven in fp8",
            message=_message_of_more,
            at_full_depth=False,
        ),
    ),
    note="[what fp8 rounds](fp8_kv.md)",
)
