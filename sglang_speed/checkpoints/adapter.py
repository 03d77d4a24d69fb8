"""What training for a cutoff leaves: a record in the checkpoint, and a LoRA adapter that is small enough to ship.

Owns whether a checkpoint counts as trained, and the format of the adapter file: tensors are named as in peft, the
metadata has `scale` and `provenance`, both JSON. recipes/speed_llama/pack.py writes it.
"""

from __future__ import annotations

import json
from collections.abc import MutableMapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sglang_speed.config import SpeedConfig
from sglang_speed.errors import ConfigError
from sglang_speed.policy_config import POLICY_TRAITS

if TYPE_CHECKING:
    from torch import Tensor

PROVENANCE_NAME = "speed_training.json"
"""The file in a trained checkpoint that says how it was made."""

UNTRAINED_COST = (
    "the weights were not trained for this cutoff, which costs quality: SmolLM2-135M, untrained, loses up to 3% of "
    "perplexity and 10 to 16 points of right tool calls with 24 of 30 layers; with 22 of 30 up to 21%, and it finds "
    "0 to 44% of what is asked of a text, 76% at full depth"
)
UNTRAINED_NEXT = (
    "next: `sglang-speed cutoff MODEL_DIR` finds a cutoff, `sglang-speed train MODEL_DIR TRAINED_DIR` trains for it, "
    "`sglang-speed eval SPEED_DIR --full-depth MODEL_DIR` measures what it costs"
)
"""What to say of an untrained checkpoint; the figures are those of docs/quality.md."""

_PREFIX = "base_model.model."
_FIRST, _SECOND = ".lora_A.weight", ".lora_B.weight"


class Training(StrEnum):
    """Whether weights were made for the cutoff that a checkpoint is served with."""

    TRAINED = "trained for this cutoff"
    UNTRAINED = "not trained for this cutoff"
    FULL_DEPTH = "full depth, where there is no cutoff"
    NOT_NEEDED = "none: published for weights as they are; what it costs this model, `sglang-speed eval` says"


def training_of(directory: Path) -> Training:
    """Training state of a checkpoint directory.

    TRAINED if `sglang-speed train` made it for the bands in its config.json. FULL_DEPTH if prompts pass all layers, and
    for any model without bands. NOT_NEEDED where the policy was published without training.
    """
    speed = SpeedConfig.from_checkpoint(directory)
    if speed is None or speed.is_stock:
        return Training.FULL_DEPTH
    if not POLICY_TRAITS[speed.policy].wants_training:
        return Training.NOT_NEEDED
    path = directory / PROVENANCE_NAME
    if not path.is_file():
        return Training.UNTRAINED
    trained_for = json.loads(path.read_text(encoding="utf-8")).get("settings", {}).get("speed", {})
    own = speed.to_dict()
    same = all(trained_for.get(key, own[key]) == own[key] for key in ("prefill_layers", "anchor_tokens"))
    return Training.TRAINED if same else Training.UNTRAINED


def require_untrained(checkpoint: Path, role: str) -> None:
    """ConfigError if a checkpoint that must run at full depth was trained for a cutoff."""
    if (checkpoint / PROVENANCE_NAME).is_file():
        raise ConfigError(
            f"{checkpoint} was trained for its cutoff ({PROVENANCE_NAME} is in it): at full depth its weights are "
            f"nobody's model and cannot be {role}; name the model that it was made from (for `eval` with --full-depth; "
            "`sglang-speed default-model --full-depth DIR` writes that of speed-llama)"
        )


def merge_adapter(weights: MutableMapping[str, Tensor], path: Path) -> None:
    """Add `scale * B A` to each weight that has factors, in its dtype (LoRA, arXiv 2106.09685).

    weights: by their names in a Llama checkpoint; replaced in place. In float64, whose sums round to the same 16 bits
    on every machine. ConfigError where a weight is missing.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        scale = json.loads(file.metadata()["scale"])
        for first in (name for name in file.keys() if name.endswith(_FIRST)):  # noqa: SIM118
            stem = first.removesuffix(_FIRST)
            name = f"{stem.removeprefix(_PREFIX)}.weight"
            if name not in weights:
                raise ConfigError(f"{path} changes {name}, which the checkpoint does not have: it is another model's")
            change = file.get_tensor(stem + _SECOND).double() @ file.get_tensor(first).double()
            weights[name] = (weights[name].double() + scale * change).to(weights[name].dtype)


def read_provenance(path: Path) -> dict[str, Any]:
    """How the adapter was made: what `sglang-speed train` wrote beside the weights."""
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        provenance: dict[str, Any] = json.loads(file.metadata()["provenance"])
    return provenance
