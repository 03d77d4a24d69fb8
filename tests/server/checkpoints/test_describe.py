"""What `inspect` says of a checkpoint, against numbers worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sglang_speed.checkpoints.convert import convert
from sglang_speed.checkpoints.describe import describe, description_table, model_shape
from sglang_speed.errors import ConfigError
from tests.server.checkpoints.helpers import NUM_LAYERS, edit_json

# the tiny model: 2 KV heads of 8, served in 2 bytes: keys and values of a token in one layer
KV_BYTES = 2 * 2 * 8 * 2


def test_bands_and_costs_of_a_checkpoint(llama: Path, tmp_path: Path) -> None:
    made = convert(llama, tmp_path / "speed", prefill_layers=3, anchor_tokens=1, tail_tokens=16)
    said = json.loads(json.dumps(describe(made.path).to_dict()))
    assert said["bands"] == [
        {"name": "shallow", "first_layer": 0, "end_layer": 3},
        {"name": "deep", "first_layer": 3, "end_layer": 4},
    ]
    assert said["kv_bytes"] == {
        "dtype": "float16",
        "full_depth_token": 4 * KV_BYTES,
        "prompt_token": 3 * KV_BYTES,
        "running_prompt_token": 3 * KV_BYTES,
        "state": 0,
        "generated_token": 4 * KV_BYTES,
        "extra_per_request": 17 * KV_BYTES,
    }
    assert said["ceilings"]["prefill"] == pytest.approx(4 / 3)
    decode = said["ceilings"]["decode"]["by_batch_size"]
    assert 1 < decode["1"] < decode["8"] < decode["64"] < 4 / 3


def test_weights_are_counted_from_their_headers(sharded_llama: Path, tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    expected = sum(weight.numel() for weight in LlamaForCausalLM.from_pretrained(sharded_llama).state_dict().values())
    said = describe(convert(sharded_llama, tmp_path / "speed", prefill_layers=3).path).to_dict()["weights"]
    assert said["num_parameters"] == expected
    assert said["num_bytes"] == 4 * expected
    assert said["dtype"] == "float32"
    assert said["files"] == sorted(path.name for path in sharded_llama.glob("*.safetensors"))


def test_the_stock_model_is_called_so(llama: Path, tmp_path: Path) -> None:
    description = describe(convert(llama, tmp_path / "speed", prefill_layers=NUM_LAYERS).path)
    assert "this is the stock model" in text_of(description_table(description))
    assert set(description.decode_ceilings().values()) == {1.0}


def test_the_table_names_layers_bytes_and_ceilings(llama: Path, tmp_path: Path) -> None:
    description = describe(convert(llama, tmp_path / "speed", prefill_layers=3).path)
    text = text_of(description_table(description))
    for part in (
        "not trained for this cutoff",
        "layers 0 to 2 (3 of 4)",
        "layers 3 to 3 (1 of 4)",
        "192 bytes, 75% of full depth",
        "1.33x",
        "speed",
    ):
        assert part in text


def test_sizes_left_out_of_a_config_are_those_of_transformers() -> None:
    shape = model_shape({"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4})
    assert (shape.num_kv_heads, shape.head_dim, shape.vocab_size) == (4, 16, 32000)


def test_a_plain_llama_is_pointed_to_convert(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is not a SPEED checkpoint: .*sglang-speed convert"):
        describe(llama)
    with pytest.raises(ConfigError, match="nowhere is neither a directory nor a model in the hub's cache"):
        describe(tmp_path / "nowhere")


def test_missing_and_foreign_weights_are_named(llama: Path, tmp_path: Path) -> None:
    made = convert(llama, tmp_path / "speed", prefill_layers=3)
    edit_json(made.path / "config.json", num_hidden_layers=8)
    with pytest.raises(ConfigError, match="weights of 4 decoder layers but num_hidden_layers=8"):
        describe(made.path)
    (made.path / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"no model\.safetensors"):
        describe(made.path)


def text_of(table: object) -> str:
    from rich.console import Console

    console = Console(width=200)
    with console.capture() as capture:
        console.print(table)
    return capture.get()
