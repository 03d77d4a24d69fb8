"""What a conversion contains, what it refuses, and what an interruption leaves."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from sglang_speed.checkpoints import convert as convert_module
from sglang_speed.checkpoints.adapter import PROVENANCE_NAME
from sglang_speed.checkpoints.convert import convert
from sglang_speed.config import SpeedConfig
from sglang_speed.errors import ConfigError
from tests.checkpoints.helpers import LLAMA_3_ROPE, NUM_LAYERS, edit_json, kill_when, start_python

HANG_BEFORE_CONFIG = """
import sys, time
from pathlib import Path
from sglang_speed.checkpoints import convert
def hang(*args):
    print("hangs", flush=True)
    time.sleep(600)
convert._write_json = hang
convert.convert(Path(sys.argv[1]), Path(sys.argv[2]), prefill_layers=3)
"""


def config_of(directory: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return config


def names_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


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
    assert names_in(made.path) == names_in(sharded_llama)


def test_what_belongs_to_the_tokenizer_comes_along_and_other_weights_do_not(llama: Path, tmp_path: Path) -> None:
    wanted = {"chat_template.jinja", "special_tokens_map.json", "LICENSE"}
    unwanted = {"pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.safetensors", "a.gguf", ".cache"}
    for name in wanted | unwanted:
        (llama / name).write_text("{}")
    (llama / "additional_chat_templates").mkdir()
    (llama / "additional_chat_templates" / "tools.jinja").write_text("tools")
    (llama / "original").mkdir()
    made = convert(llama, tmp_path / "speed", prefill_layers=3)
    assert names_in(made.path) == names_in(llama) - unwanted - {"original"}
    assert (made.path / "additional_chat_templates" / "tools.jinja").read_text() == "tools"


def test_all_layers_may_be_prefill_layers(llama: Path, tmp_path: Path) -> None:
    assert convert(llama, tmp_path / "speed", prefill_layers=NUM_LAYERS).speed.is_stock


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
    assert convert(trained, tmp_path / "other", prefill_layers=3, tail_tokens=64).speed.tail_tokens == 64
    assert (tmp_path / "other" / PROVENANCE_NAME).is_file()


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
    ("changes", "message"),
    [
        ({"model_type": "mistral"}, "model_type='mistral' in .* is not 'llama'.*choose a Llama checkpoint"),
        ({"model_type": None}, "model_type=None"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification.*only models that gen"),
        ({"num_hidden_layers": None}, "num_hidden_layers is missing"),
        ({"num_hidden_layers": 9}, "weights of 4 decoder layers but num_hidden_layers=9"),
    ],
)
def test_what_is_not_a_llama_is_refused(changes: dict[str, Any], message: str, llama: Path, tmp_path: Path) -> None:
    edit_json(llama / "config.json", **changes)
    with pytest.raises(ConfigError, match=message):
        convert(llama, tmp_path / "speed", prefill_layers=3)
    assert not (tmp_path / "speed").exists()


def test_a_source_without_config_is_refused(llama: Path, tmp_path: Path) -> None:
    (llama / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"llama has no config\.json: .*hf download"):
        convert(llama, tmp_path / "speed", prefill_layers=3)
    with pytest.raises(ConfigError, match="nowhere is not a directory"):
        convert(tmp_path / "nowhere", tmp_path / "speed", prefill_layers=3)


@pytest.mark.parametrize("settings", [{"prefill_layers": 5}, {"prefill_layers": 3, "tail_tokens": 0}])
def test_wrong_settings_are_refused_before_anything_is_written(
    settings: dict[str, int], llama: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="usual choice"):
        convert(llama, tmp_path / "deeper" / "speed", **settings)
    assert names_in(tmp_path) == {"llama"}


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


def test_a_destination_in_use_is_refused(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for destination in (llama, tmp_path / "file"):
        with pytest.raises(ConfigError, match="exists and is not empty: choose another"):
            convert(llama, destination, prefill_layers=3)


def test_an_empty_destination_is_taken(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "speed").mkdir()
    assert SpeedConfig.from_checkpoint(convert(llama, tmp_path / "speed", prefill_layers=3).path)


def test_a_destination_that_cannot_be_written_is_named(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file/speed cannot be written"):
        convert(llama, tmp_path / "file" / "speed", prefill_layers=3)


def test_a_failed_conversion_leaves_nothing(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("interrupted")

    monkeypatch.setattr(convert_module, "_write_json", fail)
    with pytest.raises(RuntimeError, match="interrupted"):
        convert(llama, tmp_path / "speed", prefill_layers=3)
    assert names_in(tmp_path) == {"llama"}


def test_a_full_disk_is_a_clear_error(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "config.json")

    monkeypatch.setattr(convert_module, "_write_json", fail)
    with pytest.raises(ConfigError, match=r"speed cannot be written .No space left.*choose a destination with room"):
        convert(llama, tmp_path / "speed", prefill_layers=3)


def test_a_killed_conversion_leaves_no_destination_and_the_next_one_succeeds(llama: Path, tmp_path: Path) -> None:
    kill_when(start_python(HANG_BEFORE_CONFIG, llama, tmp_path / "speed"), said="hangs")
    left = names_in(tmp_path) - {"llama"}
    assert [name for name in left if not name.startswith(".speed.partial-")] == []
    assert not any((tmp_path / name / "config.json").exists() for name in left)
    assert SpeedConfig.from_checkpoint(convert(llama, tmp_path / "speed", prefill_layers=3).path)


def test_of_two_conversions_to_one_place_the_later_is_refused(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    destination, fill = tmp_path / "speed", convert_module.fill_checkpoint

    def fill_while_another_finishes(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(convert_module, "fill_checkpoint", fill)
        convert(llama, destination, prefill_layers=2)
        return fill(*args, **kwargs)

    monkeypatch.setattr(convert_module, "fill_checkpoint", fill_while_another_finishes)
    with pytest.raises(ConfigError, match="filled by another process"):
        convert(llama, destination, prefill_layers=3)
    assert config_of(destination)["speed"]["prefill_layers"] == 2
    assert names_in(tmp_path) == {"llama", "speed"}
