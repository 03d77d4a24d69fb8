"""The model: SGLang builds the stock one, which then runs in depth bands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sglang.srt.distributed.parallel_state import get_tensor_model_parallel_world_size
from sglang.srt.model_executor.model_runner_components.layer_setup import ModelLayerInfo
from torch import nn
from transformers import PreTrainedConfig

from sglang_speed.errors import ConfigError
from sglang_speed.host.check import require_host
from sglang_speed.host.versions import NEWEST, OLDEST, installed_version
from sglang_speed.kv_pool.states import num_state_layers
from sglang_speed.models.architectures import ARCHITECTURES, Architecture
from sglang_speed.models.hf_config import read_as_stock, require_names
from sglang_speed.served import speed_of
from sglang_speed.serving.agreement import compare_setups

NAMES = ("model_type", "architectures")
CORE_MODEL_TYPES = ("llama", "qwen3", "qwen3_moe")
"""What is proven with the oldest SGLang."""


def read_config(
    original: Callable[..., PreTrainedConfig],
    model: str,
    trust_remote_code: bool,
    revision: str | None = None,
    model_override_args: dict[str, Any] | None = None,
    *args: Any,
    **kwargs: Any,
) -> PreTrainedConfig:
    """Hook around get_config: for a SPEED checkpoint the stock configuration, which still has the `speed` object.

    Without it SGLang does not know the architecture. HostMismatch unless all other changes are in place as well.
    ConfigError where the user overrides the names, which would be another model or another depth.
    """
    with read_as_stock() as read:
        config = original(model, trust_remote_code, revision, model_override_args, *args, **kwargs)
    if read:
        require_host("serving")
    elif speed_of(config) is not None:  # SGLang has read it before, and keeps it
        read = [ARCHITECTURES[config.model_type]]
    for architecture in read:
        require_names(architecture, {key: value for key, value in (model_override_args or {}).items() if key in NAMES})
        _require_served_here(architecture, config)
    return config


def _require_served_here(architecture: Architecture, config: PreTrainedConfig) -> None:
    if not isinstance(getattr(config, "speed", None), Mapping):
        raise ConfigError(
            "sglang_speed: --json-model-override-args takes the bands from the checkpoint, which would be served at "
            "another depth; leave `speed` out"
        )
    if installed_version() == OLDEST and architecture.model_type not in CORE_MODEL_TYPES:
        *most, last = CORE_MODEL_TYPES
        raise ConfigError(
            f"sglang_speed: with SGLang {OLDEST} only {', '.join(most)} and {last} are served in depth bands, not "
            f"{architecture.model_type}; use SGLang {NEWEST}"
        )
    speed = speed_of(config)
    if installed_version() == OLDEST and speed is not None and speed.is_thinned:
        raise ConfigError(
            f"sglang_speed: with SGLang {OLDEST} kv_keep is not served: its prefix cache takes a request's own tokens "
            f"whole; use SGLang {NEWEST}, or convert the model without --kv-keep"
        )


def run_model_in_bands(model: nn.Module, model_config: Any, *args: Any, **kwargs: Any) -> None:
    """Hook after _initialize_model, before the weights are loaded."""
    speed = speed_of(model_config.hf_config)
    compare_setups(speed)
    if speed is not None:
        from sglang_speed.models.banded import run_in_bands

        config = model_config.hf_config
        num_ahead = getattr(config.get_text_config(), "num_nextn_predict_layers", None) or 0
        run_in_bands(model, speed, ARCHITECTURES[config.model_type], num_ahead, bool(model_config.quantization))


def keep_shallow_layers(_: Any, *, model_config: Any, **__: Any) -> ModelLayerInfo | None:
    """Hook after resolve_layer_indices: the main KV pool has the layers of the shallow band, and of states above them
    where they are kept."""
    speed = speed_of(model_config.hf_config)
    if speed is None or speed.is_stock:
        return None
    num_layers = speed.prefill_layers
    if speed.keeps_states:
        num_layers += num_state_layers(model_config, get_tensor_model_parallel_world_size())
    return ModelLayerInfo(start_layer=0, end_layer=num_layers, num_effective_layers=num_layers)
