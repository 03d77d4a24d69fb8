"""The architectures that have depth bands, one row each. Plain Python. Must not import torch, transformers or sglang.

The layers are SGLang's and transformers' own: a row names them and says which of their settings are not served.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sglang_speed.config import SPEED_ARCHITECTURE, SPEED_MODEL_TYPE

ROPE_TYPES = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")
"""Kinds of position scaling that both SGLang and the reference have."""


def _gated_silu(config: Mapping[str, Any]) -> str | None:
    """What the layers of the Llama family cannot do in SGLang, or would do otherwise than in transformers."""
    activation = config.get("hidden_act", "silu")
    if activation != "silu":
        return f"hidden_act={activation!r} is not 'silu', the only one that SGLang's layers have"
    if config.get("mlp_bias"):
        return "mlp_bias=true: SGLang's layers have no biases there, and would leave them out"
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type") or rope.get("type") or "default" if isinstance(rope, Mapping) else rope
    if kind not in ROPE_TYPES:
        return f"rope type {kind!r} is not one of {', '.join(ROPE_TYPES)}: choose another model"
    return None


@dataclass(frozen=True)
class Architecture:
    """A decoder of SGLang and transformers.

    model_type, name: what its config.json says in `model_type` and `architectures`. With depth bands it says
        `speed_model_type` and `speed_name`, so that nothing else takes the checkpoint for one of full depth.
    unserved: what in a config.json, as a mapping, is not served, as the words of an error; None if all is.
    """

    model_type: str
    name: str
    unserved: Callable[[Mapping[str, Any]], str | None] = _gated_silu

    @property
    def speed_model_type(self) -> str:
        return SPEED_MODEL_TYPE + self.model_type

    @property
    def speed_name(self) -> str:
        return SPEED_ARCHITECTURE + self.name


ARCHITECTURES = {row.model_type: row for row in (Architecture("llama", "LlamaForCausalLM"),)}
"""By the model type of the stock model."""


def known_architecture(config: Mapping[str, Any]) -> Architecture:
    """The row of a config.json that has been found to have one."""
    architecture = architecture_of(config)
    assert architecture is not None, f"model_type={config.get('model_type')!r} has no depth bands"
    return architecture


def architecture_of(config: Mapping[str, Any]) -> Architecture | None:
    """The row of a config.json, with or without depth bands; None where its model type has none."""
    return ARCHITECTURES.get(str(config.get("model_type")).removeprefix(SPEED_MODEL_TYPE))
