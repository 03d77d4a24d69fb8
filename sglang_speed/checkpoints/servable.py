"""Whether SGLang serves a checkpoint in depth bands: what config.json, and files beside it, may say.

Owns the rules by which a server refuses a checkpoint, so that tools can ask before long work. `weights` checks the
weights, a server its own flags. Must not import torch or sglang.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sglang_speed.config import decoder_config
from sglang_speed.errors import ConfigError
from sglang_speed.models.architectures import (
    ARCHITECTURES,
    Architecture,
    architecture_of,
    stock_model_type,
    why_refused,
)
from sglang_speed.quantization import quantization_of

CONFIG_NAME = "config.json"
DTYPES = ("float16", "bfloat16", "float32")

_SIZES = (
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
)
_NEEDED = _SIZES[:4]

NOT_FOUND = (
    "is neither a directory nor a model in the hub's cache: nothing is downloaded here; fetch a model first, with "
    "`hf download NAME`"
)
"""What to say of a name that `local_checkpoint` finds nothing for."""


def require_servable(config: Mapping[str, Any], directory: Path) -> None:
    """ConfigError if a stock or SPEED checkpoint asks for something that is not served. Weights are not read."""
    architecture = require_architecture(config, directory)
    quantization_of(config, directory)
    _require_dtype(config, directory)
    _require_sizes(config, directory)
    unserved = architecture.unserved(config)
    if unserved:
        raise ConfigError(f"{directory / CONFIG_NAME}: {unserved}")


def require_architecture(config: Mapping[str, Any], directory: Path) -> Architecture:
    """The row of a checkpoint's architecture; ConfigError where none has its names."""
    architecture = architecture_of(config)
    if architecture is None:
        reason = why_refused(config)
        if reason is not None:
            raise ConfigError(f"model_type={stock_model_type(config)!r} in {directory} is not served: {reason}")
        raise ConfigError(
            f"model_type={config.get('model_type')!r} in {directory} has no depth bands here: choose a checkpoint of "
            f"one of {', '.join(ARCHITECTURES)}; docs/models.md says how to ask for another"
        )
    names = config.get("architectures") or [architecture.name]
    if names not in ([architecture.name], [architecture.speed_name]) or config.get("is_encoder_decoder"):
        raise ConfigError(
            f"architectures={names} in {directory} is not [{architecture.name!r}] of a decoder: only models that "
            "generate text can be served; choose a causal checkpoint"
        )
    return architecture


def _require_dtype(config: Mapping[str, Any], directory: Path) -> None:
    for key in ("dtype", "torch_dtype"):
        if config.get(key) not in (None, *DTYPES):
            raise ConfigError(
                f"{key}={config[key]!r} in {directory / CONFIG_NAME} is not one of {', '.join(DTYPES)}: other dtypes "
                "are not served in depth bands; take a checkpoint in one of these"
            )


def _require_sizes(config: Mapping[str, Any], directory: Path) -> None:
    path, config = directory / CONFIG_NAME, decoder_config(config)
    for key in _NEEDED:
        if config.get(key) is None:
            raise ConfigError(f"{key} is missing in {path}: download the checkpoint again")
    for key in _SIZES:
        value = config.get(key)
        if value is not None and (type(value) is not int or value < 1):
            raise ConfigError(f"{key}={value!r} in {path} is not a whole number above 0: download the checkpoint again")
    num_heads = config["num_attention_heads"]
    for key, whole, part in (
        ("hidden_size", config["hidden_size"], num_heads),
        ("num_attention_heads", num_heads, config.get("num_key_value_heads") or num_heads),
    ):
        # a model that names the size of its heads may have any hidden size
        if whole % part and not (key == "hidden_size" and config.get("head_dim")):
            raise ConfigError(
                f"{key}={whole} in {path} is not a multiple of {part}, the number of "
                f"{'attention' if key == 'hidden_size' else 'key-value'} heads: no decoder has such heads; download "
                "the checkpoint again"
            )
