"""The model: SGLang builds the stock one, which then runs in depth bands."""

from __future__ import annotations

from typing import Any

from sglang.srt.model_executor.model_runner_components.layer_setup import ModelLayerInfo
from torch import nn
from transformers import PreTrainedConfig

from sglang_speed.host.check import require_host
from sglang_speed.models.hf_config import as_stock
from sglang_speed.served import speed_of


def read_as_stock(config: PreTrainedConfig, *args: Any, **kwargs: Any) -> PreTrainedConfig | None:
    """Hook after get_config: the stock configuration, which still has the `speed` object.

    Without it SGLang does not know the architecture. HostMismatch unless all other changes are in place as well.
    """
    if not hasattr(config, "speed_config"):
        return None
    require_host("serving")
    return as_stock(config)


def run_model_in_bands(model: nn.Module, model_config: Any, *args: Any, **kwargs: Any) -> None:
    """Hook after _initialize_model, before the weights are loaded."""
    speed = speed_of(model_config.hf_config)
    if speed is not None:
        from sglang_speed.models.banded import run_in_bands

        run_in_bands(model, speed)


def keep_shallow_layers(_: Any, *, model_config: Any, **__: Any) -> ModelLayerInfo | None:
    """Hook after resolve_layer_indices: the main KV pool has the layers of the shallow band."""
    speed = speed_of(model_config.hf_config)
    if speed is None:
        return None
    num_layers = speed.prefill_layers
    return ModelLayerInfo(start_layer=0, end_layer=num_layers, num_effective_layers=num_layers)
