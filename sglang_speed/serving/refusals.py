"""What a SPEED model does not serve: flags of SGLang whose paths are not proven, refused at start-up.

Each entry says why. A flag leaves this table together with the tests that prove its path.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from sglang.srt.environ import envs

from sglang_speed.checkpoints.servable import require_servable
from sglang_speed.config import ARCHITECTURE, MODEL_TYPE, SpeedConfig, is_speed_model, read_model_config
from sglang_speed.errors import ConfigError

ATTENTION_BACKENDS = ("flashinfer", "triton", "fa3", "torch_native")
"""Backends that can be built once per band. On a CPU there is only the last."""

KV_CACHE_DTYPES = ("auto", "bf16", "bfloat16", "fp8_e4m3", "fp8_e5m2")
FP8_DTYPES = ("fp8_e4m3", "fp8_e5m2")
FP8_QUERY_BACKEND = "fa3"
"""With an fp8 KV cache it rounds queries too, and its kernels take e4m3 only and answer in bfloat16."""

LOAD_FORMATS = ("auto", "safetensors", "dummy")

DECODE_GRAPHS = ("full", "disabled")
PREFILL_GRAPHS = ("disabled",)
"""Graph backends: a prefill graph cannot hold the selection of the deep rows, which depends on the data."""


@dataclass(frozen=True)
class Refusal:
    """A setting that is refused: `flag` as the user writes it, when it counts as set, why."""

    flag: str
    is_set: Callable[[Any], bool]
    reason: str


def _on(name: str) -> Callable[[Any], bool]:
    return lambda args: bool(getattr(args, name))


def _above_one(name: str) -> Callable[[Any], bool]:
    return lambda args: getattr(args, name) > 1


def _is_not(name: str, *values: Any) -> Callable[[Any], bool]:
    return lambda args: getattr(args, name) not in values


REFUSALS = (
    Refusal(
        "--enable-strict-thinking",
        lambda args: bool(args.enable_strict_thinking) and args.grammar_backend in ("llguidance", "outlines"),
        "with these grammar backends SGLang ends at the first request; --grammar-backend xgrammar can filter thoughts",
    ),
    # What the deep band does not do.
    Refusal("--speculative-algorithm", _on("speculative_algorithm"), "draft tokens have no deep rows yet"),
    Refusal("--decoupled-spec-role", _is_not("decoupled_spec_role", "null"), "draft tokens have no deep rows yet"),
    Refusal("--enable-lora", _on("enable_lora"), "adapters change the anchors' deep KV"),
    Refusal("--lora-paths", _on("lora_paths"), "adapters change the anchors' deep KV"),
    Refusal("--disaggregation-mode", _is_not("disaggregation_mode", "null"), "deep KV would not travel"),
    Refusal("--enable-streaming-session", _on("enable_streaming_session"), "a session would keep its deep rows"),
    Refusal("--enable-mis", _on("enable_mis"), "items in one prompt would need their own deep tokens"),
    Refusal("--enable-mixed-chunk", _on("enable_mixed_chunk"), "its decode steps are not checked for deep slots"),
    Refusal("--dllm-algorithm", _on("dllm_algorithm"), "a diffusion model has no decode phase"),
    # Prompt tokens have no last hidden state.
    Refusal("--is-embedding", _on("is_embedding"), "prompt tokens have no last hidden state"),
    Refusal("--enable-return-hidden-states", _on("enable_return_hidden_states"), "prompt tokens have none"),
    Refusal("--return-hidden-states-mode", _on("return_hidden_states_mode"), "prompt tokens have no last hidden state"),
    # Batches and layers split over devices or in time.
    Refusal("--pp-size", _above_one("pp_size"), "the bands are not cut into stages"),
    Refusal("--nnodes", _above_one("nnodes"), "not proven over several machines"),
    Refusal("--attn-cp-size", _above_one("attn_cp_size"), "deep rows are not split over ranks"),
    Refusal("--dcp-size", _above_one("dcp_size"), "deep rows are not split over ranks"),
    Refusal("--enable-prefill-cp", _on("enable_prefill_cp"), "deep rows are not split over ranks"),
    Refusal("--enable-dp-attention", _on("enable_dp_attention"), "batches are padded across ranks"),
    Refusal("--moe-dense-tp-size", _on("moe_dense_tp_size"), "batches are padded across ranks"),
    Refusal("--moe-a2a-backend", _is_not("moe_a2a_backend", None, "none"), "batches are padded across ranks"),
    Refusal("--enable-attn-tp-input-scattered", _on("enable_attn_tp_input_scattered"), "rows are split over ranks"),
    Refusal("--enable-pdmux", _on("enable_pdmux"), "it splits the forward by layers"),
    Refusal("--enable-two-batch-overlap", _on("enable_two_batch_overlap"), "it splits the batch inside the forward"),
    Refusal("--enable-single-batch-overlap", _on("enable_single_batch_overlap"), "not proven with the deep band"),
    Refusal("--elastic-ep-backend", _on("elastic_ep_backend"), "it renames the radix tree's keys as it grows"),
    Refusal("--use-ray", _on("use_ray"), "its workers load no plugins"),
    Refusal("--smg-grpc-mode", _on("smg_grpc_mode"), "it starts without this check"),
    Refusal("--enable-torch-compile", _on("enable_torch_compile"), "deep rows depend on the data"),
    Refusal("--cpu-offload-gb", _on("cpu_offload_gb"), "offloading expects every layer in every forward"),
    Refusal(
        "--offload-group-size",
        lambda args: args.offload_group_size > 0,
        "offloading expects every layer in every forward",
    ),
    Refusal(
        "--page-size",
        lambda args: 0 < (args.chunked_prefill_size or 0) < args.page_size,
        "a page is larger than a chunk of --chunked-prefill-size, and no prompt would ever start",
    ),
    # Other caches and pools.
    Refusal("--enable-hierarchical-cache", _on("enable_hierarchical_cache"), "not proven with the deep band"),
    Refusal("--hicache-storage-backend", _on("hicache_storage_backend"), "not proven with the deep band"),
    Refusal("--enable-lmcache", _on("enable_lmcache"), "another cache would not know the depth of what it holds"),
    Refusal("--enable-flexkv", _on("enable_flexkv"), "another cache would not know the depth of what it holds"),
    Refusal("--radix-cache-backend", _on("radix_cache_backend"), "another cache was not proven with the deep band"),
    Refusal(
        "SGLANG_EXPERIMENTAL_CPP_RADIX_TREE",
        lambda args: envs.SGLANG_EXPERIMENTAL_CPP_RADIX_TREE.get(),
        "it does not keep extra_key apart, which the anchors do",
    ),
    Refusal("--enable-session-radix-cache", _on("enable_session_radix_cache"), "not proven with the deep band"),
    Refusal("--enable-hisparse", _on("enable_hisparse"), "it replaces the request table"),
    Refusal("--enable-unified-memory", _on("enable_unified_memory"), "it replaces the pools"),
    Refusal("--enable-page-major-kv-layout", _on("enable_page_major_kv_layout"), "not proven with the deep band"),
    Refusal("--prefill-only-disable-kv-cache", _on("prefill_only_disable_kv_cache"), "it replaces the pools"),
    Refusal(
        "--kv-cache-dtype",
        _is_not("kv_cache_dtype", *KV_CACHE_DTYPES),
        f"not proven in both bands; {', '.join(KV_CACHE_DTYPES)} are",
    ),
    Refusal(
        "--quantization-param-path",
        _on("quantization_param_path"),
        "scales of the KV cache are not proven in both bands, without them all are 1",
    ),
    Refusal("--kv-canary", _is_not("kv_canary", "none"), "it expects one table and one pool"),
    # Weights that would not reach both bands as they are.
    Refusal("--model-impl", _is_not("model_impl", "auto", "sglang"), "it would serve the model at full depth"),
    Refusal("--load-format", _is_not("load_format", *LOAD_FORMATS), "not proven in both bands"),
    Refusal("--custom-weight-loader", _on("custom_weight_loader"), "not proven in both bands"),
    Refusal("--weight-cache-mode", _is_not("weight_cache_mode", "off"), "not proven in both bands"),
    Refusal("--rl-quant-profile", _on("rl_quant_profile"), "its loader would skip the deep layers"),
    Refusal("--torchao-config", _on("torchao_config"), "quantized weights are not proven in both bands"),
    Refusal("--modelopt-quant", _on("modelopt_quant"), "quantized weights are not proven in both bands"),
    Refusal("--quantize-and-serve", _on("quantize_and_serve"), "quantized weights are not proven in both bands"),
    Refusal(
        "--quantization (or quantization_config in config.json)",
        lambda args: bool(args.quantization or args.get_model_config().quantization),
        "quantized weights are not proven in both bands",
    ),
)


def refuse_unsupported(_: Any, args: Any) -> None:
    """Hook after ServerArgs.check_server_args; each scheduler process asks again when it builds its pools.

    Raises ConfigError naming the flag, the reason and the fix.
    """
    config = served_config(args)
    if config is None:
        return
    for refusal in REFUSALS:
        if refusal.is_set(args):
            raise ConfigError(
                f"sglang_speed: {refusal.flag} is not supported with a SPEED model ({refusal.reason}); leave it out, "
                "or serve the full-depth checkpoint"
            )
    if not config.is_stock:
        _check_attention_backends(args)
        _check_fp8(args)
        _check_graphs(args)


def served_config(args: Any) -> SpeedConfig | None:
    """The SpeedConfig of the model to be served; None for any other model.

    Raises ConfigError for wrong values, and where what would be served is not what the checkpoint says.
    """
    hf_config = args.get_model_config().hf_config
    names = {"model_type": hf_config.model_type, "architectures": hf_config.architectures}
    directory = checkpoint_directory(args.model_path, args.revision)
    on_disk = SpeedConfig.from_checkpoint(directory)
    if on_disk is None and not is_speed_model(names):
        return None
    if names != {"model_type": MODEL_TYPE, "architectures": [ARCHITECTURE]}:
        raise ConfigError(
            f"sglang_speed: {args.model_path} would be served as {names}, which is another model or another depth; a "
            f"SPEED checkpoint has model_type {MODEL_TYPE} and architectures [{ARCHITECTURE}]: leave both out of "
            "--json-model-override-args, or convert the checkpoint again"
        )
    config: SpeedConfig = hf_config.speed_config
    if on_disk != config:
        raise ConfigError(
            f"sglang_speed: --json-model-override-args would serve {config}, the checkpoint says {on_disk}; leave it "
            "out, or convert the checkpoint again with `sglang-speed convert`"
        )
    require_servable(read_model_config(directory) or {}, directory)
    return config


def checkpoint_directory(model_path: str, revision: str | None) -> Path:
    """Where a checkpoint lies: for a hub id in the local cache, where SGLang has read the configuration."""
    path = Path(model_path)
    if path.exists():
        return path
    try:
        found = try_to_load_from_cache(model_path, "config.json", revision=revision)
    except HFValidationError:  # a URL
        return path
    return Path(found).parent if isinstance(found, str) else path


def _check_attention_backends(args: Any) -> None:
    for backend in dict.fromkeys(args.get_attention_backends()):
        if backend not in ATTENTION_BACKENDS:
            raise ConfigError(
                f"sglang_speed: --attention-backend {backend} is not tested with depth bands; choose one of "
                f"{', '.join(ATTENTION_BACKENDS)}"
            )


def _check_fp8(args: Any) -> None:
    """An fp8 KV cache under FA3: SGLang swaps the backend for e5m2 only where it was not named for one phase."""
    kv_dtype, dtype = args.kv_cache_dtype, args.get_model_config().dtype
    if kv_dtype not in FP8_DTYPES or FP8_QUERY_BACKEND not in args.get_attention_backends():
        return
    if kv_dtype != "fp8_e4m3" or dtype != torch.bfloat16:
        raise ConfigError(
            f"sglang_speed: --kv-cache-dtype {kv_dtype} in a {dtype} model is not supported with --attention-backend "
            f"{FP8_QUERY_BACKEND}, whose kernels take fp8_e4m3 in bfloat16 models only; choose that, or "
            "--attention-backend flashinfer or triton"
        )


def _check_graphs(args: Any) -> None:
    for phase, allowed in (("decode", DECODE_GRAPHS), ("prefill", PREFILL_GRAPHS)):
        backend = getattr(args.cuda_graph_config, phase).backend
        if args.device == "cuda" and backend not in allowed:
            raise ConfigError(
                f"sglang_speed: --cuda-graph-backend-{phase} {backend} is not supported with depth bands; choose one "
                f"of {', '.join(allowed)}"
            )
