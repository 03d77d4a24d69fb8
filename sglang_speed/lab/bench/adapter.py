"""A LoRA adapter with random weights, which every request of a comparison uses: what adapters cost does not depend on
what they were trained for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from sglang_speed.errors import ConfigError
from sglang_speed.lab.bench.models import Model
from sglang_speed.method.cost import ModelShape

ADAPTER = "bench"
"""Its name in requests."""
SIZE = 0.01
"""Standard deviation of the factors."""


def with_adapter(model: Model, rank: int, directory: Path) -> Model:
    """The same model, whose servers have an adapter. Raises ConfigError for a model whose layers it does not fit."""
    if rank < 1:
        raise ConfigError(f"--lora-rank {rank} is below 1: it is the rank of the adapter that requests use, e.g. 16")
    if model.shape.experts or model.shape.latent:
        raise ConfigError(
            f"--lora-rank {rank} writes an adapter for plain attention and MLP, and this model has experts or latents: "
            "only others can be compared with an adapter; leave it out"
        )
    directory.mkdir(parents=True)
    _write(directory, model.shape, model.num_layers, rank)
    return replace(model, adapter=directory)


def _write(directory: Path, shape: ModelShape, num_layers: int, rank: int) -> None:
    """As PEFT writes it."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    weights = {}
    for layer in range(num_layers):
        for name, (width_in, width_out) in _projections(shape).items():
            place = f"base_model.model.model.layers.{layer}.{name}"
            for factor, size in (("lora_A", (rank, width_in)), ("lora_B", (width_out, rank))):
                drawn = torch.empty(size).normal_(std=SIZE, generator=generator)
                weights[f"{place}.{factor}.weight"] = drawn.to(torch.bfloat16)
    save_file(weights, directory / "adapter_model.safetensors")
    modules = sorted({name.rsplit(".", 1)[1] for name in _projections(shape)})
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": modules, "bias": "none"}
    (directory / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")


def _projections(shape: ModelShape) -> Mapping[str, tuple[int, int]]:
    """Numbers in and out of each matrix of a layer."""
    hidden, mlp = shape.hidden_size, shape.intermediate_size
    queries, keys = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    gates = {"mlp.gate_proj": (hidden, mlp)} if shape.is_gated else {}
    return {
        "self_attn.q_proj": (hidden, queries),
        "self_attn.k_proj": (hidden, keys),
        "self_attn.v_proj": (hidden, keys),
        "self_attn.o_proj": (queries, hidden),
        **gates,
        "mlp.up_proj": (hidden, mlp),
        "mlp.down_proj": (mlp, hidden),
    }
