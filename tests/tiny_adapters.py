"""Random LoRA adapters for tiny models, as PEFT writes them, and what a model becomes with one merged into its weights.

Imports torch, never sglang nor peft.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
ALL_LINEAR = (*ATTENTION, "gate_proj", "up_proj", "down_proj")
ENDS = ("embed_tokens", "lm_head")

Deltas = Sequence[tuple[str, Tensor, Tensor]]
"""Names of adapted modules, with the two factors of each."""


@dataclass(frozen=True)
class TinyAdapter:
    """An adapter and how to draw it.

    modules: names of what it adapts. layers: those that it adapts, None for all. size: of what it adds to a weight,
    relative to the weight.
    """

    name: str
    modules: tuple[str, ...] = ALL_LINEAR
    rank: int = 4
    alpha: int = 8
    layers: tuple[int, ...] | None = None
    seed: int = 0
    size: float = 0.5

    def write(self, directory: Path, model: PreTrainedModel, **config: Any) -> Path:
        """Write it for a model, and return its directory. config: more of its adapter_config.json."""
        directory.mkdir(parents=True)
        weights = {}
        for name, down, up in self.deltas(model):
            ends = (
                ("lora_embedding_A", "lora_embedding_B")
                if "embed_tokens" in name
                else ("lora_A.weight", "lora_B.weight")
            )
            weights[f"base_model.model.{name}.{ends[0]}"] = down
            weights[f"base_model.model.{name}.{ends[1]}"] = up
        save_file(
            {name: weight.contiguous() for name, weight in weights.items()}, directory / "adapter_model.safetensors"
        )
        settings = {
            "peft_type": "LORA",
            "base_model_name_or_path": "another/name",
            "r": self.rank,
            "lora_alpha": self.alpha,
            "target_modules": list(self.modules),
            "bias": "none",
            **config,
        }
        (directory / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
        return directory

    def merged(self, model: PreTrainedModel, deltas: Deltas | None = None) -> PreTrainedModel:
        """A copy of a model in float32 whose weights have the adapter in them. deltas: as drawn for another model."""
        merged = copy.deepcopy(model)
        modules = dict(merged.named_modules())
        with torch.no_grad():
            for name, down, up in deltas or self.deltas(model):
                delta = up @ down * (self.alpha / self.rank)
                modules[name].weight += delta.T if "embed_tokens" in name else delta
        return merged

    def deltas(self, model: PreTrainedModel) -> Deltas:
        """Names of modules, with the two factors of each: [rank, num_inputs] and [num_outputs, rank]."""
        generator = torch.Generator().manual_seed(self.seed)
        found = []
        for name, module in model.named_modules():
            if name.rsplit(".", 1)[-1] not in self.modules or not self._has_layer_of(name):
                continue
            assert isinstance(module, nn.Linear | nn.Embedding), f"{name} is {type(module).__name__}"
            num_outputs, num_inputs = module.weight.shape
            if isinstance(module, nn.Embedding):
                num_inputs, num_outputs = num_outputs, num_inputs
            down = torch.randn(self.rank, num_inputs, generator=generator)
            up = torch.randn(num_outputs, self.rank, generator=generator)
            added = (up @ down).std() * self.alpha / self.rank
            up *= self.size * module.weight.detach().std() / added
            found.append((name, down, up))
        assert found, f"{self.name} adapts nothing"
        return found

    def _has_layer_of(self, name: str) -> bool:
        number = re.search(r"layers\.(\d+)\.", name)
        return number is None or self.layers is None or int(number[1]) in self.layers
