"""New weights while serving: only those of the same model, for the same bands.

SGLang loads whatever has the right names and shapes and goes on with the configuration that it started with, so another
checkpoint would be served at another depth than it says. Tensors that come without a configuration are checked by
`models.banded`, as far as their names tell.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from sglang_speed.checkpoints.default_model import resolve_model
from sglang_speed.checkpoints.hub import checkpoint_directory
from sglang_speed.checkpoints.servable import require_servable
from sglang_speed.config import is_speed_model, read_model_config
from sglang_speed.errors import ConfigError
from sglang_speed.features.loading import LOAD_FORMATS
from sglang_speed.models.banded import NO_NEW_WEIGHTS
from sglang_speed.models.hf_config import as_stock, config_of
from sglang_speed.policy_config import DEFAULT_POLICY
from sglang_speed.served import speed_of

NOT_COMPUTED_WITH = {
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "bos_token_id",
    "chunk_size_feed_forward",
    "dtype",
    "eos_token_id",
    "id2label",
    "initializer_range",
    "label2id",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "pretraining_tp",
    "return_dict",
    "transformers_version",
    "use_cache",
}
"""What of a configuration does not decide what the weights compute; all else must be the running model's."""
READ_IF_THERE = {"bias", "dual_chunk_attention_config", "logit_scale", "qkv_bias", "rope_is_neox_style", "use_qk_norm"}
"""What SGLang takes from any configuration that has it."""
FIX = "start a server with that checkpoint instead"


def refuse_other_bands(
    original: Callable[..., Coroutine[Any, Any, Any]], manager: Any, obj: Any, request: Any = None
) -> Coroutine[Any, Any, Any]:
    """Hook around TokenizerManager.update_weights_from_disk: (False, reason, 0) where the checkpoint does not fit."""
    if speed_of(manager.model_config.hf_config) is None:
        return original(manager, obj, request)
    if manager.model_config.quantization:
        return _refused(f"sglang_speed: {NO_NEW_WEIGHTS}")
    try:
        obj.model_path = resolve_model(obj.model_path)
        require_same_model(checkpoint_directory(obj.model_path, None), manager.model_config.hf_config)
        _require_load_format(obj.load_format)
    except ConfigError as error:
        return _refused(f"sglang_speed: {error}")
    return original(manager, obj, request)


def answer_refusal(original: Callable[..., Any], updater: Any, *args: Any, **kwargs: Any) -> Any:
    """Hook around WeightUpdater.update_weights_from_tensor: what the model refuses is answered and ends no server."""
    model_config = updater.model_config
    if speed_of(model_config.hf_config) is not None and model_config.quantization:
        return False, f"sglang_speed: {NO_NEW_WEIGHTS}"
    try:
        return original(updater, *args, **kwargs)
    except ConfigError as error:
        return False, str(error)


def require_same_model(directory: Path, running: PreTrainedConfig) -> None:
    """ConfigError unless the checkpoint in `directory` says what the running model was built from."""
    config = read_model_config(directory)
    if config is None:
        raise ConfigError(f"{directory} has no config.json: name the directory of a SPEED checkpoint on this machine")
    if not is_speed_model(config):
        speed = speed_of(running)
        assert speed is not None, "new weights are compared for SPEED models only"
        bands = f"--prefill-layers {speed.prefill_layers}"
        bands += "" if speed.policy == DEFAULT_POLICY else f" --policy {speed.policy}"
        raise ConfigError(
            f"{directory} is a full-depth checkpoint (model_type={config.get('model_type')!r}), and the server runs "
            f"prompts in {speed.prefill_layers} of {speed.num_layers} layers: make a SPEED checkpoint of it with "
            f"`sglang-speed convert {directory} DESTINATION {bands}`"
        )
    require_servable(config, directory)
    new, ours = as_stock(config_of(config)).to_dict(), running.to_dict()
    for key in sorted(new.keys() - NOT_COMPUTED_WITH | READ_IF_THERE):
        theirs, running_value = new.get(key), ours.get(key)
        if _plain(theirs) != _plain(running_value):
            raise ConfigError(f"{directory} has {key}={theirs!r}, and the running model has {running_value!r}: {FIX}")


def _plain(value: Any) -> Any:
    """Without what does not count, and without what SGLang adds to a configuration that it has read: the old name of a
    key, `type` beside `rope_type`."""
    if not isinstance(value, dict):
        return value
    return {key: _plain(each) for key, each in value.items() if key not in (*NOT_COMPUTED_WITH, "type")}


def _require_load_format(load_format: str | None) -> None:
    if load_format not in (None, *LOAD_FORMATS):
        raise ConfigError(f"load_format={load_format!r} is not one of {', '.join(LOAD_FORMATS)}: leave it out")


async def _refused(reason: str) -> tuple[bool, str, int]:
    return False, reason, 0
