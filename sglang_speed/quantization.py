"""What a checkpoint says of quantized weights, and which methods are served in depth bands.

Must not import torch, transformers or sglang.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sglang_speed.config import read_model_config
from sglang_speed.errors import ConfigError

Config = Mapping[str, Any]

METHODS = (
    *("fp8", "compressed-tensors", "awq", "gptq", "modelopt_fp8", "modelopt_fp4", "bitsandbytes"),
    *("w8a8_fp8", "w8a8_int8", "blockwise_int8"),
)
"""Of checkpoints, by SGLang's names."""
OTHER_NAMES = {"compressed_tensors": "compressed-tensors", "awq_marlin": "awq", "gptq_marlin": "gptq"}
"""Names under which SGLang runs the same checkpoints."""
MODELOPT = {"FP8": "modelopt_fp8", "NVFP4": "modelopt_fp4"}
"""ModelOpt's algorithms by what SGLang calls them."""
COMPRESSED_FORMATS = ("float-quantized", "int-quantized", "naive-quantized", "pack-quantized", "mixed-precision")
FILE = "hf_quant_config.json"
"""Where ModelOpt says what others say in config.json."""
REFUSED_FILES = ("quant_model_description.json",)
_KEYS = ("quantization_config", "compression_config")
_UNQUANTIZED = "take the checkpoint that it was made from, in bfloat16 or float16"


@dataclass(frozen=True)
class Quantization:
    """method: one of METHODS. says: all that the checkpoint says."""

    method: str
    says: Config

    @property
    def bits(self) -> int | None:
        """Of a weight, where the checkpoint says it."""
        groups = (self.says.get("config_groups") or {}).values()
        numbers = [self.says.get("bits"), *((group.get("weights") or {}).get("num_bits") for group in groups)]
        found = [number for number in numbers if isinstance(number, int)]
        return found[0] if found else None

    @property
    def name(self) -> str:
        """For people."""
        return self.method if self.bits is None else f"{self.method}, {self.bits} bits"

    @property
    def has_fp8_cache(self) -> bool:
        """Whether SGLang keeps fp8 in the KV cache where no dtype is asked for."""
        return self.method in ("fp8", *MODELOPT.values()) and kv_cache_of(self.says) == "FP8"


def quantization_of(config: Config, directory: Path) -> Quantization | None:
    """What a checkpoint's files say; None for plain weights. ConfigError for a method that is not served."""
    says = _said(config, directory)
    if says is None:
        return None
    where, content = says
    method = _method(content)
    if method not in METHODS:
        raise ConfigError(
            f"{directory} is quantized by {method} ({where}), which is not served in depth bands; {', '.join(METHODS)} "
            f"are: {_UNQUANTIZED}"
        )
    unread = _unread(method, content)
    if unread is not None:
        raise ConfigError(f"{directory} is quantized with {unread} ({where}), which is not served: {_UNQUANTIZED}")
    return Quantization(method, content)


def quantization_at(directory: Path) -> Quantization | None:
    """The same of the checkpoint in a directory."""
    return quantization_of(read_model_config(directory) or {}, directory)


def require_unquantized(config: Config, directory: Path, purpose: str) -> None:
    """ConfigError for quantized weights. purpose: what they are no use for."""
    found = quantization_of(config, directory)
    if found is not None:
        raise ConfigError(f"{directory} is quantized ({found.name}) and cannot be {purpose}: {_UNQUANTIZED}")


def kv_cache_of(says: Config) -> str | None:
    """What a checkpoint says of the KV cache, as ModelOpt names it: FP8. None where it says nothing."""
    said = _inner(says)
    algorithm, scheme = said.get("kv_cache_quant_algo"), said.get("kv_cache_scheme")
    if algorithm is None and isinstance(scheme, Mapping):
        is_fp8 = (scheme.get("type"), scheme.get("num_bits")) == ("float", 8)
        algorithm = "FP8" if is_fp8 else str(dict(scheme))
    return None if algorithm is None or str(algorithm).lower() in ("auto", "none") else str(algorithm).upper()


def _said(config: Config, directory: Path) -> tuple[str, Config] | None:
    """Where it is said, and what."""
    refused = [name for name in REFUSED_FILES if (directory / name).exists()]
    if refused:
        return refused[0], {"quant_method": "modelslim"}
    for key in _KEYS:
        if config.get(key) is not None:
            return f"{key} in config.json", config[key] if isinstance(config[key], Mapping) else {}
    path = directory / FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is not valid JSON ({error}): download the checkpoint again") from error
    return FILE, {"quant_method": "modelopt", **_inner(content)}


def _inner(says: Config) -> Config:
    """ModelOpt's own file has it one level deeper."""
    inner = says.get("quantization")
    return inner if isinstance(inner, Mapping) else says


def _method(says: Config) -> str:
    method = str(says.get("quant_method", "modelopt" if "quant_algo" in says else None)).lower()
    if method == "modelopt":
        algorithm = str(says.get("quant_algo")).upper()
        return MODELOPT.get(algorithm, f"modelopt's {algorithm}")
    return OTHER_NAMES.get(method, method)


def _unread(method: str, says: Config) -> str | None:
    """What is not served of a method that is."""
    if method != "compressed-tensors":
        return None
    for key in ("sparsity_config", "transform_config"):
        if (says.get(key) or {}).get("format", key) not in ("dense",) and says.get(key):
            return key
    form = says.get("format")
    return None if form in COMPRESSED_FORMATS else f"format {form}"
