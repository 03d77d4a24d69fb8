"""The model card of a SPEED checkpoint: README.md, for whoever finds the directory or the repository later.

Owns what README.md says, and keeps the base model's own card, with its license and attribution, beside it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sglang_speed.checkpoints.adapter import PROVENANCE_NAME, Training, training_of
from sglang_speed.config import SpeedConfig, read_model_config
from sglang_speed.quantization import quantization_at

CARD_NAME = "README.md"
BASE_CARD_NAME = "README.base.md"

_TAG = "sglang-speed"
_LICENSE_KEYS = ("license", "license_name", "license_link")
_LOSSES = {"distil": "KL to full depth", "sft": "cross-entropy"}
_UNTRAINED = "none: the weights are the base model's, and were not made for this cutoff"
_AT_FULL_DEPTH = "none: prompts pass all layers, as in the base model"


def write_card(directory: Path, base: str) -> None:
    """Replace the card that came from the base model in a finished SPEED checkpoint; the base's own is kept beside it.

    base: name of the base model. A card that this package wrote is replaced without a copy.
    """
    card = directory / CARD_NAME
    if card.is_file() and not _is_ours(front_matter(card)):
        os.replace(card, directory / BASE_CARD_NAME)
    config = read_model_config(directory)
    assert config is not None, f"{directory} has no config.json to write a card of"
    license_of_base = {key: front_matter(directory / BASE_CARD_NAME).get(key) for key in _LICENSE_KEYS}
    metadata = _metadata(base, config["model_type"], license_of_base)
    card.write_text(f"---\n{metadata}\n---\n{_text(directory, base, config)}", encoding="utf-8")


def model_name(source: Path) -> str:
    """Name of a checkpoint's base model: from its card, else its name on the Hub, else its directory."""
    metadata = front_matter(source / CARD_NAME)
    if _is_ours(metadata):
        return str(metadata["base_model"])
    place = source.resolve()
    repository = place.parent.parent.name  # a snapshot in the Hugging Face cache: models--ORG--NAME/snapshots/COMMIT
    if place.parent.name == "snapshots" and repository.startswith("models--"):
        return "/".join(repository.split("--")[1:])
    return place.name


def front_matter(card: Path) -> dict[str, Any]:
    """The metadata at the head of a card; empty if there is none or it cannot be read."""
    from huggingface_hub import metadata_load
    from yaml import YAMLError  # type: ignore[import-untyped]

    if not card.is_file():
        return {}
    try:
        return metadata_load(card) or {}
    except (ValueError, YAMLError):  # somebody else's file, which is kept as it is
        return {}


def _is_ours(metadata: Mapping[str, Any]) -> bool:
    return _TAG in (metadata.get("tags") or []) and "base_model" in metadata


def _metadata(base: str, model_type: str, license_of_base: Mapping[str, Any]) -> str:
    from huggingface_hub import ModelCardData

    return ModelCardData(base_model=base, library_name="sglang", tags=[_TAG, model_type], **license_of_base).to_yaml()


_POLICIES = {
    "speed": """(SPEED: shallow prefill, deep decode): prompt tokens are computed
and cached in the lower layers only, the tokens that the model generates pass all of them.""",
    "pop": """(POP, prefill-only pruning): prompt tokens are computed
in the lower layers only, and have keys and values in all; the tokens that the model generates pass all of them.""",
    "fastkv": """(FastKV): prompt tokens are computed in the lower
layers only, but for those that the last ones attend to most; the tokens that the model generates pass all of them.""",
}


def _text(directory: Path, base: str, config: Mapping[str, Any]) -> str:
    speed = SpeedConfig.from_model_config(config)
    rows = "\n".join(f"| {name} | {value} |" for name, value in _rows(directory, base, speed))
    base_card = f"The base model's own card, with its license and terms: [{BASE_CARD_NAME}]({BASE_CARD_NAME}).\n"
    return f"""# {base}, prompts in {speed.prefill_layers} of {speed.num_layers} layers

A checkpoint for SGLang with the plugin `sglang-speed` {_POLICIES[speed.policy]}

| | |
|---|---|
{rows}

To serve it:

    pip install sglang-speed
    python -m sglang.launch_server --model DIR

transformers, and SGLang without the plugin, refuse it: they do not know the model type `{config["model_type"]}`.
{base_card if (directory / BASE_CARD_NAME).is_file() else ""}"""


def _rows(directory: Path, base: str, speed: SpeedConfig) -> Iterator[tuple[str, str]]:
    yield "base model", base
    yield "prompt tokens pass", f"{speed.prefill_layers} of {speed.num_layers} layers"
    if not speed.is_stock:
        deep = f"the first {speed.anchor_tokens} (anchors) and the last {speed.tail_tokens} (tail) of each prompt"
        yield "tokens of prompts that pass all", deep + described_choice(speed)
    quantization = quantization_at(directory)
    if quantization is not None:
        yield "weights", f"quantized by {quantization.name}, as the base model's"
    training = training_of(directory)
    if training is Training.TRAINED:
        yield from _training_rows(json.loads((directory / PROVENANCE_NAME).read_text(encoding="utf-8")))
    else:
        texts = {Training.UNTRAINED: _UNTRAINED, Training.FULL_DEPTH: _AT_FULL_DEPTH}
        yield "training", texts.get(training, str(training))


def described_choice(speed: SpeedConfig) -> str:
    """What else of a prompt passes all layers, to be put behind the anchors and the tail."""
    text = ""
    if speed.selection is not None:
        ratios = " and ".join(f"{ratio:.0%}" for ratio in speed.selection.ratios)
        text += f"; {ratios} in all, chosen by the attention of the last {speed.selection.window}"
        if speed.is_thinned:
            text += f", and decode sees {speed.selection.kept:.0%} of it"
    if speed.messages is not None:
        text += f"; messages of at most {speed.messages.max_tokens} tokens"
    return text


def _training_rows(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """record: what `sglang-speed train` wrote, the whole of it in `speed_training.json`."""
    settings = record.get("settings", {})
    objective = settings.get("objective", "distil")
    yield "training", f"objective `{objective}`; all settings are in [{PROVENANCE_NAME}]({PROVENANCE_NAME})"
    if "data" in record:
        yield "data", f"{record['data']}, chats: {record['num_chats']}"
    if record.get("first_loss") is not None:
        change = f"{record['first_loss']:.4f} before, {record['last_loss']:.4f} after"
        yield f"{_LOSSES[objective]} of the chats held out, nats per token", change
    else:
        yield "loss of chats held out", "not known"
    if record.get("versions"):
        yield "made with", ", ".join(f"{name} {version}" for name, version in record["versions"].items())
