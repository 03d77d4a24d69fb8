"""Attention backends: those that can be built once per band.

Where the user named none and SGLang's own choice is none of them (TRT-LLM's or FA4's kernels on Blackwell, AITER's on
ROCm), another one takes its place before SGLang draws conclusions from it, such as pages of 64 tokens.
"""

from __future__ import annotations

import logging
from typing import Any

from sglang.srt.plugins.hook_registry import HookType

from sglang_speed.features.base import Feature, Refusal
from sglang_speed.host.adapter import HOST
from sglang_speed.host.hook import Hook, ResolutionHook
from sglang_speed.host.versions import NEWEST, OLDEST
from sglang_speed.served import speed_of

logger = logging.getLogger(__name__)

ATTENTION_BACKENDS = ("flashinfer", "triton", "fa3", "torch_native")
"""On a CPU there is only the last."""
NOT_WITH_FLASHINFER = {"Exaone4ForCausalLM", "Olmo2ForCausalLM"}
"""Architectures that SGLang does not run with FlashInfer, beside those with attention sinks."""
_UNSERVED_DEFAULT = "SGLang's own choice of an attention backend cannot be built once per band on some GPUs"


def take_place_of_default(args: Any) -> None:
    """Before SGLang asks which backend is the default."""
    resolved = HOST.resolved(args)
    if resolved.attention_backend is None and _has_deep_bands(resolved.get_model_config()):
        HOST.change(args, attention_backend=_served(HOST.default_attention_backend(args), resolved.get_model_config()))


def take_place_of_models_choice(args: Any) -> None:
    """After SGLang has chosen a backend for some architectures."""
    resolved = HOST.resolved(args)
    chosen = resolved.attention_backend
    if chosen is None or HOST.typed(args, "attention_backend") is not None:
        return
    model_config = resolved.get_model_config()
    if chosen not in ATTENTION_BACKENDS and _has_deep_bands(model_config):
        HOST.change(args, attention_backend=_served(chosen, model_config))


def take_place_of(chosen: str, args: Any, use_mla_backend: bool, model_config: Any) -> str | None:
    """Hook after ServerArgs._get_default_attn_backend of 0.5.17."""
    return _served(chosen, model_config) if _has_deep_bands(model_config) else None


def _has_deep_bands(model_config: Any) -> bool:
    speed = speed_of(model_config.hf_config)
    return speed is not None and not speed.is_stock


def _served(chosen: str, model_config: Any) -> str:
    """The backend that takes the place of SGLang's choice; the same one where it is served."""
    if chosen in ATTENTION_BACKENDS:
        return chosen
    served = "flashinfer" if _runs_with_flashinfer(model_config) else "triton"
    # a warning, since SGLang resolves its arguments before it sets up its log
    logger.warning(
        f"sglang_speed: attention backend {served}, since {chosen}, which SGLang would choose here, cannot be built "
        f"once per depth band; --attention-backend takes one of {', '.join(ATTENTION_BACKENDS)}"
    )
    return served


def _runs_with_flashinfer(model_config: Any) -> bool:
    """As SGLang says on GPUs for which it has no better one."""
    named = NOT_WITH_FLASHINFER.isdisjoint(model_config.hf_config.architectures or ())
    fits = not model_config.has_attention_sinks and not model_config.has_asymmetric_kv
    return named and fits and HOST.has_flashinfer()


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
    served=(f"--attention-backend {', '.join(ATTENTION_BACKENDS)}", "no --attention-backend"),
    proof=(
        "tests/inprocess/parity/test_every_setting.py",
        "tests/inprocess/parity/test_gpu_backends.py",
        "tests/inprocess/parity/test_triton.py",
        "tests/gpu/test_exactness.py",
        "tests/inprocess/features/test_default_backends.py",
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
    hooks=(
        Hook(
            target="sglang.srt.server_args.ServerArgs._get_default_attn_backend",
            parameters={OLDEST: ("self", "use_mla_backend", "model_config")},
            kind=HookType.AFTER,
            function=take_place_of,
            reason=_UNSERVED_DEFAULT,
            remove_when="SGLang 0.5.17 is no longer supported",
        ),
    ),
    resolution_hooks=(
        ResolutionHook(
            "handle_model_specific_adjustments",
            "after",
            take_place_of_models_choice,
            _UNSERVED_DEFAULT,
            versions=(NEWEST,),
        ),
        ResolutionHook(
            "handle_attention_backend_compatibility",
            "before",
            take_place_of_default,
            _UNSERVED_DEFAULT,
            versions=(NEWEST,),
        ),
    ),
    note="where SGLang would choose another one by itself, FlashInfer or Triton takes its place, with a line in the "
    "log; [what ran on a GPU](gpu.md)",
)
