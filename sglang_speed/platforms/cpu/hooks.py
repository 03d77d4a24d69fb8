"""Changes to SGLang that the CPU platform needs, because the original works on an accelerator only.

Owns the functions and their declarations. Must not apply them: the plugin does, and only on the CPU platform.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import xgrammar
from sglang.srt.plugins.hook_registry import HookType

from sglang_speed.host.adapter import HOST
from sglang_speed.host.hook import Hook, ResolutionHook
from sglang_speed.host.versions import NEWEST, OLDEST
from sglang_speed.platforms.cpu import ATTENTION_BACKEND, MEM_FRACTION_STATIC, host_pool
from sglang_speed.platforms.cpu.lora import start_in_ordinary_memory
from sglang_speed.platforms.cpu.quantized import dequantize_weights, know_methods
from sglang_speed.platforms.cpu.speculation_hooks import SPECULATION_HOOKS

if TYPE_CHECKING:
    from sglang.srt.mem_cache.kv_cache_configurator import KVCacheConfigurator

NAMED_BACKENDS_ONLY = {"GptOssForCausalLM", "Exaone4ForCausalLM"}
"""Architectures that SGLang serves with attention backends of a list only."""
ACCEPTED_BACKEND = "triton"
KV_BUDGET_BYTES = 2 << 30
KV_BUDGET_SHARE = 0.25


def allocate_token_bitmask(vocab_size: int, batch_size: int) -> torch.Tensor:
    """A bitmask that allows every token, in ordinary memory. Returns int32 [batch_size, ceil(vocab_size / 32)]."""
    bitmask: torch.Tensor = xgrammar.allocate_token_bitmask(batch_size, vocab_size)
    return bitmask


def apply_vocab_mask(logits: torch.Tensor, vocab_mask: torch.Tensor) -> None:
    """Set the logits of forbidden tokens to -inf, in place. logits: [batch_size, vocab_size]."""
    xgrammar.apply_token_bitmask_inplace(logits, vocab_mask)


def apply_vocab_mask_of_grammar(_grammar: object, logits: torch.Tensor, vocab_mask: torch.Tensor) -> None:
    """The same as a method of a grammar object."""
    apply_vocab_mask(logits, vocab_mask)


def bound_kv_bytes(profiled_bytes: int, configurator: KVCacheConfigurator, pre_model_load_memory: float) -> int:
    """Bytes of this rank's KV pool: as profiled, bounded where the user set neither tokens nor a share of memory."""
    args = HOST.resolved(configurator.server_args)
    if args.max_total_tokens is not None or args.mem_fraction_static != MEM_FRACTION_STATIC:
        return profiled_bytes
    num_ranks: int = max(1, args.tp_size * args.pp_size // args.nnodes)  # on this machine
    return min(KV_BUDGET_BYTES, int(profiled_bytes * KV_BUDGET_SHARE)) // num_ranks


def without_nccl(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a process group that communicates by torch.distributed alone."""
    return args, {**kwargs, "use_pynccl": False}


def leave_threads_to_the_environment(**_: Any) -> None:
    """Do nothing: `cpu.share_cores` has given each rank its number of threads."""


def add_gated_expert(hidden: torch.Tensor, gate: torch.Tensor, shared: torch.Tensor, out: torch.Tensor) -> None:
    """Add a shared expert to the output of the chosen ones, in place: `out += sigmoid(hidden @ gate) * shared`.

    hidden, shared, out: [num_tokens, hidden_size]. gate: [hidden_size].
    """
    out.add_(torch.sigmoid(hidden @ gate)[:, None] * shared)


def cap_logits(logits: torch.Tensor, cap: float) -> torch.Tensor:
    """Bound logits to `cap * tanh(logits / cap)`, in place."""
    return logits.div_(cap).tanh_().mul_(cap)


def pass_for_another_backend(args: Any) -> None:
    """Before SGLang compares the attention backend with those that it knows to have windows and sinks."""
    resolved = HOST.resolved(args)
    if resolved.attention_backend == ATTENTION_BACKEND and _is_checked_by_name(resolved):
        HOST.change(args, attention_backend=ACCEPTED_BACKEND)
        if resolved.moe_runner_backend == "auto":
            # or experts would be laid out for Triton kernels, and multiplied by PyTorch
            HOST.change(args, moe_runner_backend="triton")


def be_the_own_backend_again(args: Any) -> None:
    """After that comparison."""
    resolved = HOST.resolved(args)
    if resolved.attention_backend == ACCEPTED_BACKEND and _is_checked_by_name(resolved):
        HOST.change(args, attention_backend=ATTENTION_BACKEND)


def _is_checked_by_name(resolved: Any) -> bool:
    return not NAMED_BACKENDS_ONLY.isdisjoint(resolved.get_model_config().hf_config.architectures or ())


_HOST_POOLS = "sglang.srt.mem_cache.pool_host"
_TRANSFERRED = ("self", "device_pool", "host_indices", "device_indices")
_HOST_POOL = (
    "self",
    "dtype",
    "device_capacity_tokens",
    "size_per_token",
    "start_layer",
    "end_layer",
    "host_to_device_ratio",
    "host_size",
    "page_size",
    "layout",
    "pin_memory",
    "device",
    "allocator_type",
    "dcp_size",
    "dcp_rank",
    "pool_label",
    "is_dummy",
    "host_token_capacity",
)
_CHECKED_BACKENDS = "SGLang refuses torch_native for these models, whose windows and sinks it lacks; ours has both"

RESOLUTION_HOOKS = (
    ResolutionHook(
        "handle_model_specific_adjustments", "before", pass_for_another_backend, _CHECKED_BACKENDS, versions=(NEWEST,)
    ),
    ResolutionHook(
        "handle_model_specific_adjustments", "after", be_the_own_backend_again, _CHECKED_BACKENDS, versions=(NEWEST,)
    ),
)

HOOKS: tuple[Hook, ...] = (
    *SPECULATION_HOOKS,
    Hook(
        target="sglang.srt.configs.model_config.ModelConfig._verify_quantization",
        parameters={NEWEST: ("self",)},
        kind=HookType.BEFORE,
        function=know_methods,
        reason="SGLang has gptq in its registry on platforms of its own only",
        remove_when="SGLang asks the platform which methods there are",
    ),
    Hook(
        target="sglang.srt.model_loader.loader.DefaultModelLoader._get_all_weights",
        parameters={NEWEST: ("self", "model_config", "model")},
        kind=HookType.AFTER,
        function=dequantize_weights,
        reason="kernels for quantized weights need an accelerator or AMX",
        remove_when="SGLang has them in PyTorch too",
    ),
    Hook(
        target="sglang.kernels.ops.elementwise.elementwise.fused_gate_sigmoid_mul_add",
        parameters=("hidden_states", "gate_weight", "shared_output", "final_hidden_states"),
        kind=HookType.REPLACE,
        function=add_gated_expert,
        reason="a Triton kernel",
        remove_when="SGLang has it in PyTorch too",
    ),
    Hook(
        target="sglang.kernels.ops.activation.softcap.softcap_inplace_logits",
        parameters=("full_logits", "final_logit_softcapping"),
        kind=HookType.REPLACE,
        function=cap_logits,
        reason="a Triton kernel, where SGLang does not know the platform to be a CPU",
        remove_when="SGLang asks the platform whether Triton runs",
    ),
    Hook(
        target="sglang.srt.constrained.xgrammar_backend._allocate_token_bitmask",
        parameters={OLDEST: ("vocab_size", "batch_size")},
        kind=HookType.REPLACE,
        function=allocate_token_bitmask,
        reason="pinned memory needs a CUDA driver; one constrained request ends the server",
        remove_when="SGLang asks the platform whether memory can be pinned",
    ),
    Hook(
        target="sglang.srt.constrained.xgrammar_backend.XGrammarGrammar.apply_vocab_mask",
        parameters={OLDEST: ("self", "logits", "vocab_mask")},
        kind=HookType.REPLACE,
        function=apply_vocab_mask_of_grammar,
        reason="raises for logits on a CPU",
        remove_when="SGLang calls xgrammar's CPU kernel for logits on a CPU",
    ),
    Hook(
        target="sglang.srt.constrained.xgrammar_backend.XGrammarGrammarBackend.apply_vocab_mask",
        parameters=("logits", "vocab_mask"),
        kind=HookType.REPLACE,
        function=apply_vocab_mask,
        reason="raises for logits on a CPU; the reasoning grammar calls it",
        remove_when="SGLang calls xgrammar's CPU kernel for logits on a CPU",
    ),
    Hook(
        target="sglang.srt.lora.lora_manager.LoRAManager.init_state",
        parameters={NEWEST: ("self", "max_lora_rank", "target_modules", "lora_paths")},
        kind=HookType.AROUND,
        function=start_in_ordinary_memory,
        reason="the layers of LoRA keep their sizes in pinned memory, which needs a CUDA driver",
        remove_when="SGLang asks whether memory can be pinned, as its pool of adapters does",
    ),
    Hook(
        target="sglang.srt.mem_cache.kv_cache_configurator.KVCacheConfigurator._profile_available_bytes",
        parameters=("self", "pre_model_load_memory"),
        kind=HookType.AFTER,
        function=bound_kv_bytes,
        reason="the memory of a CPU belongs to the whole machine; SGLang would take most of it",
        remove_when="SGLang takes the KV pool's bytes from the platform or from a server argument",
    ),
    Hook(
        target="sglang.srt.distributed.parallel_state.init_model_parallel_group",
        parameters={
            OLDEST: (
                "group_ranks",
                "local_rank",
                "backend",
                "use_pynccl",
                "use_custom_allreduce",
                "use_message_queue_broadcaster",
                "group_name",
                "use_mscclpp_allreduce",
                "use_torch_symm_mem_allreduce",
                "recovered_rank",
                "rank_offset",
                "max_world_size",
            )
        },
        kind=HookType.BEFORE,
        function=without_nccl,
        reason="SGLang opens an NCCL communicator wherever the library loads, which it does without a GPU",
        remove_when="SGLang asks the platform for its communicator class",
    ),
    Hook(
        target="sglang.srt.distributed.bootstrap._init_cpu_threads_env",
        parameters={
            OLDEST: ("tp_size", "tp_rank", "local_omp_cpuid"),
            NEWEST: ("local_omp_cpuid", "dist_init_method"),
        },
        kind=HookType.REPLACE,
        function=leave_threads_to_the_environment,
        reason="on Arm it calls kernels that the published wheels do not contain; elsewhere it only warns",
        remove_when="SGLang looks for its CPU kernels before it calls them",
    ),
    Hook(
        target=f"{_HOST_POOLS}.base.HostKVCache.__init__",
        parameters={NEWEST: _HOST_POOL},
        kind=HookType.BEFORE,
        function=host_pool.in_ordinary_memory,
        reason="pinned memory needs a CUDA driver",
        remove_when="SGLang asks the platform whether memory can be pinned",
    ),
    Hook(
        target=f"{_HOST_POOLS}.base.HostKVCache.load_to_device_per_layer_physical",
        parameters={NEWEST: (*_TRANSFERRED, "layer_id", "io_backend", "is_draft")},
        kind=HookType.REPLACE,
        function=host_pool.load_layer,
        reason="CUDA kernels copy between host and device",
        remove_when="SGLang asks the platform for its host pools",
    ),
    Hook(
        target=f"{_HOST_POOLS}.base.HostKVCache.backup_from_device_all_layer_physical",
        parameters={NEWEST: (*_TRANSFERRED, "io_backend")},
        kind=HookType.REPLACE,
        function=host_pool.back_up_layers,
        reason="CUDA kernels copy between host and device",
        remove_when="SGLang asks the platform for its host pools",
    ),
    Hook(
        target="sglang.srt.mem_cache.host_memory.available_host_memory_bytes",
        parameters={NEWEST: ("allow_cgroup_fallback",)},
        kind=HookType.AFTER,
        function=host_pool.leave_less,
        reason="SGLang leaves 10 GiB of a machine's free memory, which is all that many a CPU has",
        remove_when="the reserve is an argument of the server",
    ),
)
