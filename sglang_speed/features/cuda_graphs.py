"""CUDA graphs: captured for decode steps, left out for prefills. Compiled forwards are refused.

SGLang captures prefill graphs by default on CUDA; a graph cannot hold the selection of deep rows, which depends on the
data. So they are left out where nobody asked, and refused where somebody did. docs/gpu.md says what either would need.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sglang.srt.plugins.hook_registry import HookType

from sglang_speed.features.base import Feature, Refusal, on
from sglang_speed.host.adapter import HOST
from sglang_speed.host.hook import Hook, ResolutionHook
from sglang_speed.host.versions import NEWEST, OLDEST
from sglang_speed.served import speed_of

_NO_PREFILL_GRAPHS = "a prefill graph, which SGLang captures by default, cannot hold a selection of rows"
_ALL_LAYERS = "one kernel in place of all layers knows no bands"
GRAPHS = {"decode": ("full", "disabled"), "prefill": ("disabled",)}
"""Backends of graphs that are served, by phase."""


def leave_out_prefill_graphs(args: Any) -> None:
    """Before SGLang resolves its graphs."""
    speed = speed_of(HOST.resolved(args).get_model_config().hf_config)
    if speed is not None and not speed.is_stock:
        HOST.change(args, disable_prefill_cuda_graph=True)


def leave_out_where_read(args: Any) -> None:
    """Hook before ServerArgs._handle_cuda_graph_config of 0.5.17.

    It has not read the model's configuration yet where these graphs were asked for or left out explicitly.
    """
    if getattr(args, "model_config", None) is not None:
        leave_out_prefill_graphs(args)


def _backend(args: Any, phase: str) -> str:
    return str(getattr(args.cuda_graph_config, phase).backend)


def _captures_others(phase: str) -> Callable[[Any], bool]:
    return lambda args: args.device == "cuda" and _backend(args, phase) not in GRAPHS[phase]


def _message(phase: str) -> Callable[[Any], str]:
    return lambda args: (
        f"--cuda-graph-backend-{phase} {_backend(args, phase)} is not supported with depth bands; choose one of "
        f"{', '.join(GRAPHS[phase])}"
    )


def _refusal(phase: str, reason: str) -> Refusal:
    flag = f"--cuda-graph-backend-{phase}"
    return Refusal(flag, _captures_others(phase), reason, message=_message(phase), at_full_depth=False)


FEATURE = Feature(
    name="CUDA graphs, torch.compile, whole-model kernels",
    served=(f"--cuda-graph-backend-decode {', '.join(GRAPHS['decode'])}",),
    proof=("tests/inprocess/parity/test_gpu_backends.py", "tests/gpu/test_exactness.py"),
    gpu="Triton; FlashInfer in part",
    refusals=(
        Refusal("--enable-torch-compile", on("enable_torch_compile"), "forwards in bands were never compiled"),
        Refusal("--enable-nvidia-megakernel", on("enable_nvidia_megakernel"), _ALL_LAYERS, versions=(NEWEST,)),
        Refusal("--enable-amd-monokernel", on("enable_amd_monokernel"), _ALL_LAYERS, versions=(NEWEST,)),
        _refusal("decode", "other graphs are not proven with the deep band"),
        _refusal(
            "prefill", "a graph cannot hold a selection of rows, and breaks at attention alone; left out by default"
        ),
    ),
    hooks=(
        Hook(
            target="sglang.srt.server_args.ServerArgs._handle_cuda_graph_config",
            parameters={OLDEST: ("self",)},
            kind=HookType.BEFORE,
            function=leave_out_where_read,
            reason=_NO_PREFILL_GRAPHS,
            remove_when="SGLang 0.5.17 is no longer supported",
        ),
    ),
    resolution_hooks=(
        ResolutionHook(
            "handle_cuda_graph_config", "before", leave_out_prefill_graphs, _NO_PREFILL_GRAPHS, versions=(NEWEST,)
        ),
    ),
)
