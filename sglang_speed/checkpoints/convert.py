"""Makes a SPEED checkpoint from a stock checkpoint: the same weights under another config.

Owns what the new directory contains. The weights are shared with the source, never rewritten.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sglang_speed.checkpoints.adapter import PROVENANCE_NAME, Training, training_of
from sglang_speed.checkpoints.atomic import absolute, new_directory, require_free, writing_to
from sglang_speed.checkpoints.card import model_name, write_card
from sglang_speed.checkpoints.delimiters import delimiters_of
from sglang_speed.checkpoints.manifest import MANIFEST_NAME
from sglang_speed.checkpoints.servable import (
    CONFIG_NAME,
    NOT_FOUND,
    require_servable,
)
from sglang_speed.checkpoints.weights import INDEX_NAME, read_weights, require_layers
from sglang_speed.config import SpeedConfig, decoder_config, read_model_config
from sglang_speed.errors import ConfigError
from sglang_speed.models.architectures import known_architecture
from sglang_speed.policy_config import DEFAULT_POLICY

Placement = Literal["hard link", "symlink", "copy"]

_TEMPLATES = "additional_chat_templates"
# weights in any format: the safetensors of the model are placed one by one, the rest is left behind
_WEIGHT_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".ot"}
_NO_HARD_LINK = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP}


@dataclass(frozen=True)
class Conversion:
    """What `convert` made. placement: how the weight files came there. training: for this cutoff or not."""

    path: Path
    speed: SpeedConfig
    placement: Placement
    training: Training


def convert(
    source: Path,
    destination: Path,
    *,
    prefill_layers: int | Sequence[int],
    policy: str = DEFAULT_POLICY,
    copy: bool = False,
    message_delimiters: Sequence[str] = (),
    **settings: Any,
) -> Conversion:
    """Make a SPEED checkpoint at `destination` from the stock or SPEED checkpoint at `source`.

    prefill_layers: the cutoff, or several. policy: a depth policy. settings: what else a `speed` object may say; the
        policy has defaults for what is left out or None.
    message_delimiters: texts with which messages begin, beside what is found in the chat template, where short ones
        are deep.
    copy: copy the weights; otherwise they are hard-linked, or symlinked where no hard link can be made.
    `destination` must be absent or empty, and is complete when it appears. Raises ConfigError for a source that
    cannot be served, a wrong setting, or a destination that cannot be written.
    """
    config = read_source_config(source)
    num_layers = decoder_config(config)["num_hidden_layers"]
    if settings.get("deep_message_tokens"):
        settings["message_delimiters"] = delimiters_of(source, message_delimiters)
    elif message_delimiters:
        raise ConfigError(
            f"--message-delimiter {message_delimiters[0]!r} says where messages begin, and no length makes one deep: "
            "add --deep-message-tokens, or leave it out"
        )
    speed = SpeedConfig.of_policy(num_layers, prefill_layers, policy, **settings)
    _require_trained_bands(source, speed)
    if speed.is_thinned and known_architecture(config).is_of_transformers:
        raise ConfigError(
            f"--kv-keep {settings['kv_keep']} is not served for "
            f"{known_architecture(config).model_type}, whose layers SGLang takes from transformers: leave it out"
        )
    require_layers(read_weights(source), config, source)
    destination = absolute(destination)
    require_free(destination)
    with writing_to(destination), new_directory(destination) as directory:
        placement = fill_checkpoint(source, directory, speed, copy=copy)
        write_card(directory, model_name(source))
    return Conversion(destination, speed, placement, training_of(destination))


def _require_trained_bands(source: Path, speed: SpeedConfig) -> None:
    """ConfigError if a trained checkpoint would get other bands. Its tail may change: those tokens are deep."""
    trained = SpeedConfig.from_checkpoint(source) if (source / PROVENANCE_NAME).is_file() else None
    if trained is None:
        return
    ours, theirs = ({"policy": DEFAULT_POLICY, **each.to_dict()} for each in (speed, trained))
    for key in ("policy", "prefill_layers", "anchor_tokens"):
        if ours[key] != theirs[key]:
            raise ConfigError(
                f"{key}={ours[key]} is not the {theirs[key]} that {source} was trained for "
                f"({PROVENANCE_NAME} is in it): convert the model that it was made from, or train that one"
            )


def fill_checkpoint(source: Path, directory: Path, speed: SpeedConfig, *, copy: bool = False) -> Placement:
    """Write a SPEED checkpoint into the existing `directory`; its config.json comes last."""
    config = read_source_config(source)
    placements = [_place(path, directory / path.name, copy) for path in read_weights(source).files]
    _copy_other_files(source, directory)
    _write_json(directory / CONFIG_NAME, speed_model_config(config, speed))
    return max(placements, key=("hard link", "copy", "symlink").index)


def write_speed_config(directory: Path, speed: SpeedConfig) -> None:
    """Make a SPEED checkpoint of the stock checkpoint in `directory`, in place."""
    _write_json(directory / CONFIG_NAME, speed_model_config(read_source_config(directory), speed))


def fill_full_depth(source: Path, directory: Path) -> None:
    """Write the stock checkpoint of a SPEED checkpoint into the existing `directory`, with the same weights."""
    config = read_source_config(source)
    for path in read_weights(source).files:
        _place(path, directory / path.name, copy=False)
    _copy_other_files(source, directory)
    _write_json(directory / CONFIG_NAME, plain_model_config(config))


def fill_trained(source: Path, directory: Path, speed: SpeedConfig, save_weights: Callable[[Path], Any]) -> None:
    """Write a SPEED checkpoint with the source's other files and new weights into the existing `directory`.

    save_weights: writes safetensors there; what it writes beside them is replaced by the source's.
    """
    save_weights(directory)
    _copy_other_files(source, directory, with_index=False)
    _write_json(directory / CONFIG_NAME, speed_model_config(read_source_config(source), speed))


def read_source_config(source: Path) -> dict[str, Any]:
    """config.json of a stock or SPEED checkpoint; ConfigError if no server would serve it."""
    config = read_model_config(source)
    if config is None:
        incomplete = "has no config.json: fetch a whole model first, with `hf download NAME`"
        problem = incomplete if source.is_dir() else NOT_FOUND
        raise ConfigError(f"{source} {problem}")
    require_servable(config, source)
    return config


def speed_model_config(config: Mapping[str, Any], speed: SpeedConfig) -> dict[str, Any]:
    """config.json of the SPEED checkpoint: the source's, under a name that no loader of the stock model accepts.

    No `auto_map`: code that came with the source must not be run in our name.
    """
    architecture = known_architecture(config)
    ours = {
        **_rope_in_one_object(config),
        "architectures": [architecture.speed_name],
        "model_type": architecture.speed_model_type,
        "speed": speed.to_dict(),
    }
    ours.pop("auto_map", None)
    return ours


def plain_model_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of the same model at full depth, which SGLang serves without this package."""
    architecture = known_architecture(config)
    rest = {key: value for key, value in config.items() if key != "speed"}
    return {**rest, "architectures": [architecture.name], "model_type": architecture.model_type}


def _rope_in_one_object(config: Mapping[str, Any]) -> dict[str, Any]:
    """`rope_scaling` and `rope_theta` as `rope_parameters`, the form in which transformers 5 keeps them.

    SGLang's detokenizer process knows no SPEED model type, so AutoTokenizer reads config.json there as a bare
    PreTrainedConfig, which fails on the old form of Llama 3.1 (transformers 5.12.1, configuration_utils.py,
    __post_init__: it looks for `max_position_embeddings` before that is set).
    """
    scaling = config.get("rope_scaling")
    if not scaling:
        return dict(config)
    rest = {key: value for key, value in config.items() if key not in ("rope_scaling", "rope_theta")}
    rope = {"rope_theta": config.get("rope_theta", 10000.0), **scaling}
    rope["rope_type"] = rope.get("rope_type") or rope.pop("type", "default")
    local = rest.pop("rope_local_base_freq", None)
    if local is None:
        return {**rest, "rope_parameters": rope}
    kinds = {"full_attention": rope, "sliding_attention": {"rope_type": "default", "rope_theta": local}}
    return {**rest, "rope_parameters": kinds}


def _place(source: Path, destination: Path, copy: bool) -> Placement:
    # snapshots of the Hugging Face cache are symlinks into its blobs: a link must outlive the snapshot
    source = source.resolve()
    if copy:
        shutil.copyfile(source, destination)
        return "copy"
    try:
        os.link(source, destination)
    except OSError as error:
        if error.errno not in _NO_HARD_LINK:
            raise
        destination.symlink_to(source)
        return "symlink"
    return "hard link"


def _copy_other_files(source: Path, directory: Path, *, with_index: bool = True) -> None:
    """Tokenizer, chat templates, generation config, license and whatever else is not weights."""
    for path in sorted(source.iterdir()):
        if path.is_file() and _travels(path.name) and (with_index or path.name != INDEX_NAME):
            shutil.copyfile(path, directory / path.name)
    if (source / _TEMPLATES).is_dir():
        shutil.copytree(source / _TEMPLATES, directory / _TEMPLATES)


def _travels(name: str) -> bool:
    if name.endswith(".index.json"):
        return name == INDEX_NAME
    if name.startswith(".") or name in (CONFIG_NAME, MANIFEST_NAME):
        return False
    return Path(name).suffix not in _WEIGHT_SUFFIXES


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
