"""Attention backends: those that can be built once per band."""

from __future__ import annotations

from typing import Any

from sglang_speed.features.base import Feature, Refusal

ATTENTION_BACKENDS = ("flashinfer", "triton", "fa3", "torch_native")
"""On a CPU there is only the last."""


def _others(args: Any) -> list[str]:
    return [backend for backend in args.get_attention_backends() if backend not in ATTENTION_BACKENDS]


def _is_latent_on_gpu(args: Any) -> bool:
    return args.device != "cpu" and args.get_model_config().attention_arch.name == "MLA"


def _message(args: Any) -> str:
    return (
        f"--attention-backend {_others(args)[0]} is not tested with depth bands; choose one of "
        f"{', '.join(ATTENTION_BACKENDS)}"
    )


FEATURE = Feature(
    name="attention backends",
    served=(f"--attention-backend {', '.join(ATTENTION_BACKENDS)}",),
    proof=(
        "tests/inprocess/parity/test_every_setting.py",
        "tests/inprocess/parity/test_gpu_backends.py",
        "tests/inprocess/parity/test_triton.py",
        "tests/gpu/test_exactness.py",
    ),
    gpu="Triton; FlashInfer in part",
    refusals=(
        Refusal(
            "--attention-backend",
            lambda args: bool(_others(args)),
            "others are not tested with depth bands",
            message=_message,
            at_full_depth=False,
        ),
        Refusal(
            "latent attention (DeepSeek) on a GPU",
            _is_latent_on_gpu,
            "its kernels have not been watched in two bands yet; CPUs serve it",
            at_full_depth=False,
        ),
    ),
    note="[what ran on a GPU](gpu.md)",
)
