"""SGLang's out-of-tree platform for machines without an accelerator.

Owns which pieces of SGLang run on a CPU and the defaults of the server arguments there. Must not change what the user
asked for, and must not touch SGLang beyond its platform interface and its attention registry.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import psutil
import torch
from sglang.srt.platforms.cpu import CpuDeviceMixin
from sglang.srt.platforms.device_mixin import PlatformEnum
from sglang.srt.platforms.interface import SRTPlatform

if TYPE_CHECKING:
    from sglang.srt.server_args import ServerArgs

MEM_FRACTION_STATIC = 0.8
MAX_RUNNING_REQUESTS = 16
CHUNKED_PREFILL_SIZE = 2048


def activate() -> str | None:
    """Entry point of the group `sglang.srt.platforms`: the platform's name, or None where another platform serves."""
    has_accelerator = torch.cuda.is_available() or torch.xpu.is_available()
    if has_accelerator or os.environ.get("SGLANG_USE_CPU_ENGINE") == "1":
        return None
    return "sglang_speed.platforms.cpu.CpuPlatform"


class CpuPlatform(SRTPlatform, CpuDeviceMixin):
    """SGLang on a CPU with operators in plain PyTorch."""

    _enum = PlatformEnum.OOT
    device_name = "cpu"
    device_type = "cpu"

    def get_device(self, device_id: int | None = 0) -> str:
        return "cpu"

    def get_device_total_memory(self, device_id: int = 0) -> int:
        return int(psutil.virtual_memory().total)

    def get_current_memory_usage(self, device: torch.device | None = None) -> float:
        memory = psutil.virtual_memory()
        return float(memory.total - memory.available)

    def is_pin_memory_available(self, device: Any = None) -> bool:
        return False

    def get_dispatch_key_name(self) -> str:
        return "native"

    def get_default_attention_backend(self) -> str:
        return "torch_native"

    def get_compile_backend(self, mode: str | None = None) -> str:
        return "inductor"

    def get_mha_kv_pool_cls(self) -> type:
        from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool

        return MHATokenToKVPool

    def get_paged_allocator_cls(self) -> type:
        from sglang_speed.platforms.cpu_allocator import allocator_for_page_size

        return allocator_for_page_size

    def apply_server_args_defaults(self, server_args: ServerArgs) -> None:
        server_args.attention_backend = "torch_native"
        server_args.sleep_on_idle = True
        if server_args.dtype == "auto":
            server_args.dtype = "bfloat16"
        if server_args.max_running_requests is None:
            server_args.max_running_requests = MAX_RUNNING_REQUESTS
        if server_args.chunked_prefill_size is None:
            server_args.chunked_prefill_size = CHUNKED_PREFILL_SIZE
        if server_args.mem_fraction_static is None:
            server_args.mem_fraction_static = MEM_FRACTION_STATIC
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
