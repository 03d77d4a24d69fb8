"""Which sources and checkpoints are refused, because a server would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sglang_speed.checkpoints.convert import convert
from sglang_speed.checkpoints.describe import describe
from sglang_speed.errors import ConfigError
from tests.server.checkpoints.helpers import edit_json


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "unheard_of"}, "model_type='unheard_of' in .* has no depth bands.*of one of qwen3"),
        ({"model_type": None}, "model_type=None"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification.*only models that gen"),
        ({"is_encoder_decoder": True}, "only models that generate text can be served"),
        (
            {"quantization_config": {"quant_method": "quark"}},
            r"quantized by quark \(quantization_config in config.json\), which is not served .* fp8, compressed-",
        ),
        ({"compression_config": {}}, r"quantized by none \(compression_config in config.json\)"),
        (
            {"quantization_config": {"quant_method": "compressed-tensors", "format": "marlin-24"}},
            r"quantized with format marlin-24 \(quantization_config in config.json\), which is not served",
        ),
        ({"dtype": "float8_e4m3fn"}, "dtype='float8_e4m3fn' in .* is not one of float16, bfloat16, float32"),
        ({"torch_dtype": "float64"}, "torch_dtype='float64'"),
        ({"num_hidden_layers": None}, "num_hidden_layers is missing"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"num_hidden_layers": "4"}, "num_hidden_layers='4' in .* is not a whole number above 0"),
        ({"max_position_embeddings": 0}, "max_position_embeddings=0 in .* is not a whole number above 0"),
        (
            {"num_attention_heads": 5, "head_dim": None},
            "hidden_size=32 in .* is not a multiple of 5, the number of attention heads",
        ),
        ({"num_key_value_heads": 3}, "num_attention_heads=4 in .* is not a multiple of 3, the number of key-value"),
        (
            {"num_key_value_heads": 4},
            r"layers\.0\.self_attn\.k_proj\.weight in .* is of shape \[16, 32\], .* is \[32, 32",
        ),
        ({"vocab_size": 300}, r"embed_tokens\.weight in .* is of shape \[258, 32\]"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"mlp_bias": True}, "mlp_bias=True"),
        (
            {"rope_parameters": {"rope_type": "proportional"}},
            "rope type 'proportional' is not one of default,",
        ),
        ({"num_hidden_layers": 9}, "weights of 4 decoder layers but num_hidden_layers=9"),
    ],
)
def test_what_no_server_would_take_is_refused(
    changes: dict[str, Any], message: str, llama: Path, tmp_path: Path
) -> None:
    edit_json(llama / "config.json", **changes)
    with pytest.raises(ConfigError, match=message):
        convert(llama, tmp_path / "speed", prefill_layers=3)
    assert not (tmp_path / "speed").exists()


def test_a_finished_checkpoint_is_held_to_the_same(llama: Path, tmp_path: Path) -> None:
    made = convert(llama, tmp_path / "speed", prefill_layers=3).path
    (made / "hf_quant_config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"speed is quantized by modelopt's NONE \(hf_quant_config.json\)"):
        describe(made)
    (made / "hf_quant_config.json").unlink()
    weights = load_file(llama / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({**weights, name: weights[name].to(torch.float8_e4m3fn)}, tmp_path / "fp8.safetensors")
    for directory in (llama, made):
        (directory / "model.safetensors").unlink()
        (directory / "model.safetensors").hardlink_to(tmp_path / "fp8.safetensors")
    with pytest.raises(ConfigError, match=r"up_proj\.weight in .* has dtype F8_E4M3, and F32, F16, BF16 are served"):
        convert(llama, tmp_path / "other", prefill_layers=3)
    with pytest.raises(ConfigError, match="F8_E4M3"):
        describe(made)


def test_an_untied_model_without_its_head_is_refused(llama: Path, tmp_path: Path) -> None:
    weights = load_file(llama / "model.safetensors")
    save_file({name: weight for name, weight in weights.items() if "lm_head" not in name}, llama / "model.safetensors")
    with pytest.raises(ConfigError, match=r"lm_head\.weight in .* is missing"):
        convert(llama, tmp_path / "speed", prefill_layers=3)


def test_a_source_without_config_is_refused(llama: Path, tmp_path: Path) -> None:
    (llama / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"llama has no config\.json: .*hf download"):
        convert(llama, tmp_path / "speed", prefill_layers=3)
    with pytest.raises(ConfigError, match="nowhere is neither a directory nor a model in the hub's cache"):
        convert(tmp_path / "nowhere", tmp_path / "speed", prefill_layers=3)


def test_weights_in_another_format_are_refused_with_the_command_that_helps(llama: Path, tmp_path: Path) -> None:
    (llama / "model.safetensors").rename(llama / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"weights in pytorch_model\.bin.*save_pretrained"):
        convert(llama, tmp_path / "speed", prefill_layers=3)


def test_missing_weights_are_refused(llama: Path, tmp_path: Path) -> None:
    (llama / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"no model\.safetensors and no"):
        convert(llama, tmp_path / "speed", prefill_layers=3)


def test_a_missing_shard_is_named(sharded_llama: Path, tmp_path: Path) -> None:
    shard = sorted(sharded_llama.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(ConfigError, match=f"lacks {shard.name}"):
        convert(sharded_llama, tmp_path / "speed", prefill_layers=3)


def test_an_index_cannot_point_outside_its_directory(sharded_llama: Path, tmp_path: Path) -> None:
    edit_json(sharded_llama / "model.safetensors.index.json", weight_map={"a": "../b.safetensors"})
    with pytest.raises(ConfigError, match="not a file name"):
        convert(sharded_llama, tmp_path / "speed", prefill_layers=3)


@pytest.mark.parametrize("content", [None, b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"])
def test_broken_weights_are_refused(content: bytes | None, llama: Path, tmp_path: Path) -> None:
    weights = llama / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] if content is None else content)
    with pytest.raises(ConfigError, match="not a complete safetensors file"):
        convert(llama, tmp_path / "speed", prefill_layers=3)
