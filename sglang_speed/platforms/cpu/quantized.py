"""Quantized checkpoints on a CPU: their matrices are dequantized while they are loaded.

SGLang's kernels for them need an accelerator, or instructions that few CPUs have. Models are built with plain layers
then, so they take the memory of an unquantized one and are as fast. What a checkpoint says of the KV cache is kept.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import torch
from safetensors import safe_open
from sglang.srt.layers.linear import LinearBase
from sglang.srt.layers.moe.fused_moe_triton import FusedMoE
from sglang.srt.layers.quantization import QUANTIZATION_METHODS
from sglang.srt.layers.quantization.base_config import QuantizationConfig
from sglang.srt.layers.quantization.kv_cache import BaseKVCacheMethod
from sglang.srt.layers.quantization.modelopt_quant import ModelOptFp4Config, ModelOptFp8Config
from sglang.srt.layers.quantization.unquant import UnquantizedFusedMoEMethod, UnquantizedLinearMethod
from sglang.srt.layers.radix_attention import RadixAttention
from torch import Tensor

from sglang_speed.errors import ConfigError
from sglang_speed.platforms.cpu.dequantize import OF_KV, dequantize, split_name
from sglang_speed.quantization import FILE, kv_cache_of

logger = logging.getLogger(__name__)

METHODS = (
    *("fp8", "compressed-tensors", "awq", "gptq", "modelopt", "modelopt_fp8", "modelopt_fp4", "bitsandbytes"),
    *("w8a8_fp8", "w8a8_int8", "blockwise_int8"),
)
"""By SGLang's names."""
NOT_REGISTERED = ("gptq",)
BASES = {"modelopt_fp8": ModelOptFp8Config, "modelopt_fp4": ModelOptFp4Config}
"""What SGLang takes the configuration of a method to be."""


class KVScales(QuantizationConfig):
    """Plain layers, and attention with scales for its keys and values."""

    kv_cache_quant_algo: str | None

    def __init__(self, is_fp8: bool) -> None:
        """is_fp8: the cache holds fp8 where the user says nothing else."""
        super().__init__()
        self.kv_cache_quant_algo = "FP8" if is_fp8 else None

    def get_name(self) -> str:
        return "scales of the KV cache"

    def get_supported_act_dtypes(self) -> list[torch.dtype]:
        return [torch.float32, torch.bfloat16, torch.float16]

    @classmethod
    def get_min_capability(cls) -> int:
        return 0

    @staticmethod
    def get_config_filenames() -> list[str]:
        return []

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> QuantizationConfig:
        return cls(is_fp8=True)

    def get_scaled_act_names(self) -> list[str]:
        return []

    def get_quant_method(self, layer: torch.nn.Module, prefix: str) -> Any:
        if isinstance(layer, RadixAttention):
            return BaseKVCacheMethod(self)
        if isinstance(layer, LinearBase):
            return UnquantizedLinearMethod()
        if isinstance(layer, FusedMoE):
            return UnquantizedFusedMoEMethod(layer.use_triton_kernels, layer.use_flashinfer_trtllm_moe)
        return None


@cache
def config_class(method: str) -> type:
    """What SGLang asks for the configuration of a method. ConfigError for one whose format is not read here."""
    if method not in METHODS:
        raise ConfigError(
            f"sglang_speed: --quantization {method} needs an accelerator, and none was found; on a CPU checkpoints in "
            f"{', '.join(METHODS)} are dequantized while they are loaded"
        )

    base: Any = BASES.get(method, object)

    class Dequantized(base):  # type: ignore[misc]
        def __init__(self) -> None:
            raise ConfigError(
                f"sglang_speed: --quantization {method} of a checkpoint that is not quantized needs an accelerator, "
                "and none was found; leave it out"
            )

        @staticmethod
        def get_config_filenames() -> list[str]:
            return [FILE] if method.startswith("modelopt") else []

        @staticmethod
        def override_quantization_method(hf_quant_cfg: Any, user_quant: str | None) -> None:
            """Stands for no method but its own."""

        @classmethod
        def from_config(cls, config: Mapping[str, Any]) -> QuantizationConfig | None:
            kind = kv_cache_of(config)
            return None if kind is None else KVScales(is_fp8=kind == "FP8" and method != "compressed-tensors")

    return Dequantized


def know_methods(_: Any) -> None:
    """Hook before ModelConfig._verify_quantization: names that SGLang registers on platforms of its own only."""
    for method in NOT_REGISTERED:
        QUANTIZATION_METHODS.setdefault(method, config_class(method))


def dequantize_weights(
    weights: Iterator[tuple[str, Tensor]], loader: Any, model_config: Any, model: Any
) -> Iterator[tuple[str, Tensor]] | None:
    """Hook after DefaultModelLoader._get_all_weights: matrices in place of what a checkpoint has for them."""
    if model_config.quantization is None:
        return None
    logger.warning(
        f"sglang_speed: the weights in {model_config.quantization} are dequantized to {model_config.dtype} as they are "
        "loaded, since the kernels for them need an accelerator; activations are not quantized"
    )
    names = _names_in(loader.resolve_model_weights(model_config, model))
    said = getattr(model_config.hf_config, "quantization_config", None) or {}
    has_scales = isinstance(getattr(model, "quant_config", None), KVScales)
    return _dequantized(weights, names, said if isinstance(said, Mapping) else said.to_dict(), has_scales)


def _names_in(sources: Any) -> list[str]:
    names: list[str] = []
    for source in sources:
        if not source.use_safetensors:
            raise ConfigError(
                f"sglang_speed: {source.hf_folder} has no safetensors, and quantized weights are read from these only "
                "on a CPU"
            )
        for path in source.weight_files:
            with safe_open(path, framework="pt") as file:
                names += file.keys()
    return names


def _dequantized(
    weights: Iterator[tuple[str, Tensor]], names: list[str], config: Mapping[str, Any], has_scales: bool
) -> Iterator[tuple[str, Tensor]]:
    """Each matrix as soon as all of its parts are there, in whichever files they are."""
    missing = Counter(split[0] for split in map(split_name, names) if split is not None)
    waiting: dict[str, dict[str, Tensor]] = {}
    for name, tensor in weights:
        split = split_name(name)
        if split is None:
            if has_scales or name.rpartition(".")[2] not in OF_KV:
                yield name, tensor
            continue
        matrix, part = split
        waiting.setdefault(matrix, {})[part] = tensor
        missing[matrix] -= 1
        if not missing[matrix]:
            yield matrix, dequantize(matrix, waiting.pop(matrix), config)
    assert not waiting, f"{sorted(waiting)[:3]} lack parts that their files name"
