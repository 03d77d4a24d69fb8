"""What a conversion contains."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from sglang_speed.checkpoints.adapter import PROVENANCE_NAME, Training, training_of
from sglang_speed.checkpoints.convert import convert
from sglang_speed.config import SpeedConfig
from sglang_speed.errors import ConfigError
from tests.server.checkpoints.helpers import LLAMA_3_ROPE, NUM_LAYERS, config_of, edit_json, names_in


def test_the_config_is_the_sources_with_bands(llama: Path, tmp_path: Path) -> None:
    edit_json(llama / "config.json", auto_map={"AutoConfig": "code.Config"}, note="kept")
    made = convert(llama, tmp_path / "speed", prefill_layers=3, tail_tokens=8)
    expected = config_of(llama) | {
        "architectures": ["SpeedLlamaForCausalLM"],
        "model_type": "speed_llama",
        "speed": {"prefill_layers": 3, "anchor_tokens": 1, "tail_tokens": 8},
    }
    del expected["auto_map"]
    assert config_of(made.path) == expected
    assert SpeedConfig.from_checkpoint(made.path) == made.speed == SpeedConfig(NUM_LAYERS, 3, 1, 8)


def test_weights_are_shared_with_the_source(llama: Path, tmp_path: Path) -> None:
    made = convert(llama, tmp_path / "speed", prefill_layers=3)
    assert made.placement == "hard link"
    assert (made.path / "model.safetensors").samefile(llama / "model.safetensors")


def test_a_copy_shares_nothing(llama: Path, tmp_path: Path) -> None:
    made = convert(llama, tmp_path / "speed", prefill_layers=3, copy=True)
    assert made.placement == "copy"
    ours, theirs = made.path / "model.safetensors", llama / "model.safetensors"
    assert ours.read_bytes() == theirs.read_bytes()
    assert not ours.samefile(theirs)


def test_a_link_outlives_the_symlinks_of_a_download_cache(llama: Path, tmp_path: Path) -> None:
    blob = tmp_path / "blobs" / "0123"
    blob.parent.mkdir()
    (llama / "model.safetensors").rename(blob)
    (llama / "model.safetensors").symlink_to("../blobs/0123")
    made = convert(llama, tmp_path / "speed", prefill_layers=3)
    weights = made.path / "model.safetensors"
    assert not weights.is_symlink()
    assert weights.samefile(blob)


def test_another_file_system_gets_symlinks_to_the_files_themselves(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.chdir(tmp_path)
    made = convert(Path("llama"), Path("speed"), prefill_layers=3)
    assert made.placement == "symlink"
    assert (made.path / "model.safetensors").readlink() == llama / "model.safetensors"


def test_all_files_of_sharded_weights_come_along(sharded_llama: Path, tmp_path: Path) -> None:
    made = convert(sharded_llama, tmp_path / "speed", prefill_layers=3)
    assert names_in(made.path) == names_in(sharded_llama) | {"README.md"}


def test_what_belongs_to_the_tokenizer_comes_along_and_other_weights_do_not(llama: Path, tmp_path: Path) -> None:
    wanted = {"chat_template.jinja", "special_tokens_map.json", "LICENSE"}
    unwanted = {"pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.safetensors", "a.gguf", ".cache"}
    for name in wanted | unwanted:
        (llama / name).write_text("{}")
    (llama / "additional_chat_templates").mkdir()
    (llama / "additional_chat_templates" / "tools.jinja").write_text("tools")
    (llama / "original").mkdir()
    made = convert(llama, tmp_path / "speed", prefill_layers=3)
    assert names_in(made.path) == (names_in(llama) | {"README.md"}) - unwanted - {"original"}
    assert (made.path / "additional_chat_templates" / "tools.jinja").read_text() == "tools"


def test_all_layers_may_be_prefill_layers(llama: Path, tmp_path: Path) -> None:
    made = convert(llama, tmp_path / "speed", prefill_layers=NUM_LAYERS)
    assert made.speed.is_stock
    assert made.training is Training.FULL_DEPTH


def test_a_speed_checkpoint_can_be_converted_to_other_settings(llama: Path, tmp_path: Path) -> None:
    first = convert(llama, tmp_path / "first", prefill_layers=3)
    second = convert(first.path, tmp_path / "second", prefill_layers=2, anchor_tokens=4, tail_tokens=1)
    direct = convert(llama, tmp_path / "direct", prefill_layers=2, anchor_tokens=4, tail_tokens=1)
    assert config_of(second.path) == config_of(direct.path)
    assert names_in(second.path) == names_in(direct.path)


def test_a_trained_checkpoint_keeps_the_bands_that_it_was_trained_for(llama: Path, tmp_path: Path) -> None:
    trained = convert(llama, tmp_path / "trained", prefill_layers=3).path
    (trained / PROVENANCE_NAME).write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"prefill_layers=2 is not the 3 that .*trained was trained for"):
        convert(trained, tmp_path / "other", prefill_layers=2)
    with pytest.raises(ConfigError, match=r"anchor_tokens=4 is not the 1 that .*trained was trained for"):
        convert(trained, tmp_path / "other", prefill_layers=3, anchor_tokens=4)
    with pytest.raises(ConfigError, match=r"policy=pop is not the speed that .*trained was trained for"):
        convert(trained, tmp_path / "other", prefill_layers=3, policy="pop")
    made = convert(trained, tmp_path / "other", prefill_layers=3, tail_tokens=64)
    assert made.speed.tail_tokens == 64
    assert made.training is Training.TRAINED
    edit_json(trained / PROVENANCE_NAME, settings={"speed": {"num_layers": 4, "prefill_layers": 2, "anchor_tokens": 1}})
    assert training_of(trained) is Training.UNTRAINED, "it was trained for another cutoff"


@pytest.mark.parametrize(
    ("scaling", "theta"),
    [
        (LLAMA_3_ROPE, 500000.0),
        ({"type": "linear", "factor": 2.0}, None),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}, 10000.0),
        (None, 500000.0),
    ],
)
def test_rope_means_the_same_before_and_after(
    scaling: dict[str, Any] | None, theta: float | None, llama: Path, tmp_path: Path
) -> None:
    from transformers import LlamaConfig

    edit_json(llama / "config.json", rope_parameters=None, rope_scaling=scaling, rope_theta=theta)
    made = convert(llama, tmp_path / "speed", prefill_layers=3)
    theirs, ours = LlamaConfig(**config_of(llama)), LlamaConfig(**config_of(made.path))
    # "type" is the name that "rope_type" had first
    assert ours.rope_parameters == {key: value for key, value in theirs.rope_parameters.items() if key != "type"}
    assert theirs.rope_parameters["rope_theta"] == (theta or 10000.0)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"prefill_layers": 5}, "prefill_layers=5 is not between 1 and 4"),
        ({"prefill_layers": 3, "tail_tokens": 0}, "tail_tokens=0 is below 1"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(
    settings: dict[str, int], problem: str, llama: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=problem):
        convert(llama, tmp_path / "deeper" / "speed", **settings)
    assert names_in(tmp_path) == {"llama"}
