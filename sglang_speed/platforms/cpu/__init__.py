"""SGLang's out-of-tree platform for machines without an accelerator.

Owns which pieces of SGLang run on a CPU, and the defaults of the server arguments there. Must not change what the user
asked for, and touches SGLang through its platform interface and its attention registry only; `hooks` has the rest.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from sglang.srt.platforms.cpu import CpuDeviceMixin
from sglang.srt.platforms.device_mixin import PlatformEnum
from sglang.srt.platforms.interface import SRTPlatform

from sglang_speed.errors import ConfigError, HostMismatch
from sglang_speed.host.versions import OLDEST, check_version, installed_version

if TYPE_CHECKING:
    from sglang.srt.mem_cache.allocator.base import BaseTokenToKVPoolAllocator
    from sglang.srt.server_args import ServerArgs

logger = logging.getLogger(__name__)

ATTENTION_BACKEND = "torch_native"
"""Name under which our backend stands in: by it SGLang knows that Triton kernels cannot run."""
FILLED_IN_BACKENDS = (None, "intel_amx")
"""What SGLang leaves or puts in place of a backend that the user did not name."""
LORA_BACKEND = "torch_native"
FILLED_IN_LORA_BACKEND = "csgmv"
"""SGLang's default, whose kernels need an accelerator."""
NEED_AN_ACCELERATOR = {
    "enable_deterministic_inference": "SGLang knows batch-invariant attention kernels for accelerators only",
    "rl_on_policy_target": "it turns on --enable-deterministic-inference, which has no attention kernels for a CPU",
    "enable_lora_overlap_loading": "it copies weights beside a CUDA stream",
    "enable_memory_saver": "its library is loaded into each scheduler process and needs the CUDA driver",
}
"""Settings with which SGLang ends at start-up without saying so, and why."""
MAX_RUNNING_REQUESTS = 16
CHUNKED_PREFILL_SIZE = 2048
MEM_FRACTION_STATIC = 0.8


def activate() -> str | None:
    """Entry point of the group `sglang.srt.platforms`: our class, or None where SGLang has a platform of its own or its
    version is not supported.
    """
    has_accelerator = torch.cuda.is_available() or torch.xpu.is_available()
    if has_accelerator or os.environ.get("SGLANG_USE_CPU_ENGINE") == "1":
        return None
    try:
        check_version()
    except HostMismatch as error:
        logger.warning(f"{error}. Its platform for machines without an accelerator is left out")
        return None
    # Threads that wait actively slow decoding down 35x where other processes are busy. The OpenMP runtime reads this
    # as it is loaded, so it serves the processes that SGLang starts from here on.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # SGLang compiles small functions when a request first needs them: with a repetition penalty that is half a minute
    # in which the server answers nobody, and its end where there is no C++ compiler.
    os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")
    # or a server whose scheduler died waits a minute for CUDA core dumps, and its clients with it
    os.environ.setdefault("SGLANG_CUDA_COREDUMP_BEFORE_CRASH", "0")
    return f"{CpuPlatform.__module__}.{CpuPlatform.__qualname__}"


class CpuPlatform(CpuDeviceMixin, SRTPlatform):
    """Operators in plain PyTorch, our attention backend, allocators without Triton, a bounded KV pool.

    Not SGLang's own CPU platform: that one expects a kernel library that the published wheels do not contain. Hence
    `_enum` says out-of-tree, and `is_cpu()` is false.
    """

    _enum = PlatformEnum.OOT

    def get_device(self, device_id: int | None = None) -> str:
        """A string: SGLang splits it at a colon."""
        return "cpu"

    def init_backend(self) -> None:
        """Runs in every worker before a model runner is built."""
        from sglang.srt.layers.attention.attention_registry import register_attention_backend
        from sglang.srt.models.deepseek_common.attention_backend_handler import AttentionBackendRegistry

        register_attention_backend(ATTENTION_BACKEND)(_build_attention_backend)
        if installed_version() != OLDEST:
            from sglang.srt.lora.backend.lora_registry import register_lora_backend

            register_lora_backend(LORA_BACKEND)(_lora_backend)
        AttentionBackendRegistry.register(ATTENTION_BACKEND, _attend_to_latents)

    def get_default_attention_backend(self) -> str:
        return ATTENTION_BACKEND

    def get_mha_kv_pool_cls(self) -> type:
        """Asked for by SGLang 0.5.17."""
        from sglang_speed.platforms.cpu.memory import CpuKVPool

        return CpuKVPool

    def get_kv_pool_cls(self, *, kind: str) -> type | None:
        """Asked for by later versions; None for SGLang's own."""
        return self.get_mha_kv_pool_cls() if kind == "mha" else None

    def get_paged_allocator_cls(self) -> Callable[..., BaseTokenToKVPoolAllocator]:
        """In 0.5.17 SGLang asks for the allocator of any page size here; later ones need no Triton for pages."""
        if installed_version() != OLDEST:
            return super().get_paged_allocator_cls()
        from sglang_speed.platforms.cpu.memory import build_allocator

        return build_allocator

    def get_quantization_config(self, quantization: str) -> type | None:
        """None for SGLang's own, which 0.5.17 keeps."""
        if installed_version() == OLDEST:
            return None
        from sglang_speed.platforms.cpu.quantized import config_class

        return config_class(quantization)

    def get_torch_profiler_activity_str(self) -> str:
        return "CPU"

    def get_torch_profiler_activity(self) -> torch.profiler.ProfilerActivity:
        return torch.profiler.ProfilerActivity.CPU

    def apply_server_args_defaults(self, server_args: ServerArgs) -> None:
        """Fill in what the user left open. ConfigError for an attention backend or a setting that cannot run here.

        `dtype` auto becomes bfloat16: SGLang would run a float32 checkpoint as float16, for which CPUs have no fast
        matrix products. float16 and float32 are kept where they are asked for. `hooks.bound_kv_bytes` bounds the
        KV pool.
        """
        _refuse_what_needs_an_accelerator(server_args)
        _choose_attention_backend(server_args)
        _choose_lora_backend(server_args)
        server_args.sleep_on_idle = True
        server_args.disable_custom_all_reduce = True
        server_args.disable_hybrid_swa_memory = True  # the attention reads one pool
        if server_args.dtype == "auto":
            server_args.dtype = "bfloat16"
        for name, default in (
            ("max_running_requests", MAX_RUNNING_REQUESTS),
            ("chunked_prefill_size", CHUNKED_PREFILL_SIZE),
            ("mem_fraction_static", MEM_FRACTION_STATIC),
        ):
            if getattr(server_args, name) is None:
                setattr(server_args, name, default)
        from sglang_speed.host.adapter import HOST  # imports SGLang, which asks for this platform while it is imported

        num_ranks = HOST.num_bound_ranks(server_args)
        if num_ranks > 1:
            share_cores(max(1, num_ranks // server_args.nnodes))


def share_cores(num_ranks: int) -> None:
    """Give each rank its part of the cores, by the environment that the ranks inherit.

    Without it SGLang refuses more ranks than NUMA nodes, and every rank starts a thread for every core.
    """
    cores = sorted(os.sched_getaffinity(0))
    num_each = max(1, len(cores) // num_ranks)
    parts = [cores[rank * num_each % len(cores) :][:num_each] for rank in range(num_ranks)]
    os.environ.setdefault("SGLANG_CPU_OMP_THREADS_BIND", "|".join(",".join(map(str, part)) for part in parts))
    os.environ.setdefault("OMP_NUM_THREADS", str(num_each))


def _refuse_what_needs_an_accelerator(server_args: ServerArgs) -> None:
    if server_args.load_format == "bitsandbytes":
        raise ConfigError(
            "--load-format bitsandbytes needs an accelerator, and none was found: it loads for kernels that run there "
            "only; leave the flag out, and matrices are dequantized as they are loaded"
        )
    for name, reason in NEED_AN_ACCELERATOR.items():
        if getattr(server_args, name):
            raise ConfigError(
                f"--{name.replace('_', '-')} needs an accelerator, and none was found: {reason}; leave the flag out"
            )


def _choose_attention_backend(server_args: ServerArgs) -> None:
    if server_args.attention_backend in FILLED_IN_BACKENDS:
        server_args.attention_backend = ATTENTION_BACKEND
    for name in ("attention_backend", "prefill_attention_backend", "decode_attention_backend"):
        chosen = getattr(server_args, name)
        if chosen not in (None, ATTENTION_BACKEND):
            raise ConfigError(
                f"--{name.replace('_', '-')} {chosen} needs an accelerator, and none was found: on a CPU the attention "
                f"backend is {ATTENTION_BACKEND}; leave the flag out"
            )


def _choose_lora_backend(server_args: ServerArgs) -> None:
    if server_args.lora_backend == FILLED_IN_LORA_BACKEND:
        server_args.lora_backend = LORA_BACKEND
    if server_args.lora_backend != LORA_BACKEND:
        raise ConfigError(
            f"--lora-backend {server_args.lora_backend} needs an accelerator, and none was found: on a CPU the LoRA "
            f"backend is {LORA_BACKEND}; leave the flag out"
        )


def _lora_backend() -> type:
    from sglang_speed.platforms.cpu.lora import CpuLoRABackend

    return CpuLoRABackend


def _attend_to_latents(*_: Any) -> Any:
    """Latent attention over the cache as it is, in prefill too: what SGLang does there otherwise reads no prefix."""
    from sglang.srt.models.deepseek_common.attention_forward_methods.forward_methods import AttnForwardMethod

    return AttnForwardMethod.MLA


def _build_attention_backend(model_runner: Any) -> Any:
    from sglang_speed.platforms.cpu.attention import CpuAttnBackend
    from sglang_speed.platforms.cpu.memory import SORTS_SLOTS

    SORTS_SLOTS.set(model_runner.token_to_kv_pool_allocator, True)
    return CpuAttnBackend(model_runner)
