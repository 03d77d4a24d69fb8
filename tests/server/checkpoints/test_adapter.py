"""A shipped difference is what peft would have merged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from recipes.speed_llama.pack import pack_adapter
from sglang_speed.checkpoints.adapter import merge_adapter, read_provenance
from sglang_speed.errors import ConfigError
from tests.tiny_models import make_tiny_model

SHAPE = {"num_layers": 3, "hidden_size": 32, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8}
TRAINED = ("model.layers.2.self_attn.q_proj.weight", "model.layers.2.mlp.down_proj.weight")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_tiny_model(tmp_path / "source", **SHAPE)


@pytest.fixture
def trained(source: Path) -> PeftModel:
    """LoRA with random factors that bfloat16 holds exactly, at scale 2."""
    model = LlamaForCausalLM.from_pretrained(source)
    model.name_or_path = ""
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], layers_to_transform=[2])
    lora = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in lora.named_parameters():
        if "lora_" in name:
            factor = torch.randn(parameter.shape, generator=generator).to(torch.bfloat16).float() / 8
            parameter.data.copy_(factor)
    return lora


def test_merging_gives_the_weights_that_peft_gives(source: Path, trained: PeftModel, tmp_path: Path) -> None:
    trained.save_pretrained(tmp_path / "peft")
    pack_adapter(tmp_path / "peft", {"steps": 3}, tmp_path / "packed.safetensors")
    weights = load_file(source / "model.safetensors")
    before = {name: weight.clone() for name, weight in weights.items()}
    merge_adapter(weights, tmp_path / "packed.safetensors")
    expected = trained.merge_and_unload().state_dict()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-6)
        assert torch.equal(weight, before[name]) == (name not in TRAINED), name
    assert read_provenance(tmp_path / "packed.safetensors") == {"steps": 3}


def test_an_adapter_of_another_model_is_refused(source: Path, trained: PeftModel, tmp_path: Path) -> None:
    trained.save_pretrained(tmp_path / "peft")
    pack_adapter(tmp_path / "peft", {}, tmp_path / "packed.safetensors")
    weights = load_file(source / "model.safetensors")
    del weights[TRAINED[1]]
    with pytest.raises(ConfigError, match=r"mlp\.down_proj\.weight, which the checkpoint does not have"):
        merge_adapter(weights, tmp_path / "packed.safetensors")


def test_an_adapter_that_is_no_plain_lora_is_refused(source: Path, tmp_path: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(source)
    model.name_or_path = ""
    get_peft_model(model, LoraConfig(r=4, use_dora=True, target_modules=["q_proj"])).save_pretrained(tmp_path / "peft")
    with pytest.raises(SystemExit, match="use_dora"):
        pack_adapter(tmp_path / "peft", {}, tmp_path / "packed.safetensors")
