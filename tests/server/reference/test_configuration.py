"""SPEED checkpoints on disk: what loads, what is refused, and what a process that knows nothing of them sees."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from sglang_speed import ConfigError, SpeedConfig
from sglang_speed.reference import SpeedLlamaConfig, register
from sglang_speed.reference.modeling import SpeedLlamaForCausalLM
from tests.one_thread import one_thread  # noqa: F401
from tests.tiny_models import ids_of, make_tiny_model

SPEED = {"prefill_layers": 3, "anchor_tokens": 1, "tail_tokens": 2}
LLAMA_3_ROPE = {
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 256,
    },
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return make_tiny_model(tmp_path, num_layers=4, speed=SPEED)


def edit_config(checkpoint: Path, **changes: Any) -> Path:
    """Write changes into config.json; None removes a key."""
    path = checkpoint / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | changes
    config = {key: value for key, value in config.items() if value is not None}
    path.write_text(json.dumps(config), encoding="utf-8")
    return checkpoint


def run_python(code: str, *arguments: str) -> str:
    """stdout of a fresh interpreter, which has registered nothing."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_configuration_survives_a_round_trip(tmp_path: Path) -> None:
    config = SpeedLlamaConfig(num_hidden_layers=8, speed={"prefill_layers": 6, "anchor_tokens": 4, "tail_tokens": 3})
    config.save_pretrained(tmp_path)
    loaded = SpeedLlamaConfig.from_pretrained(tmp_path)
    assert loaded.speed_config == SpeedConfig(8, 6, anchor_tokens=4, tail_tokens=3)
    assert loaded.to_dict() == config.to_dict()


def test_a_saved_checkpoint_spells_out_its_defaults(tmp_path: Path) -> None:
    SpeedLlamaConfig(num_hidden_layers=8, speed={"prefill_layers": 6}).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert saved["speed"] == {"prefill_layers": 6, "anchor_tokens": 1, "tail_tokens": 16}


def test_a_checkpoint_loads_by_class_and_by_auto_class(checkpoint: Path) -> None:
    assert isinstance(AutoConfig.from_pretrained(checkpoint), SpeedLlamaConfig)
    for model in (SpeedLlamaForCausalLM.from_pretrained(checkpoint), AutoModelForCausalLM.from_pretrained(checkpoint)):
        assert isinstance(model, SpeedLlamaForCausalLM)
        assert model.policy.config == SpeedConfig(4, 3, anchor_tokens=1, tail_tokens=2)


def test_a_saved_model_loads_again_with_its_generation_settings(checkpoint: Path, tmp_path: Path) -> None:
    SpeedLlamaForCausalLM.from_pretrained(checkpoint).save_pretrained(tmp_path / "again")
    again, info = SpeedLlamaForCausalLM.from_pretrained(tmp_path / "again", output_loading_info=True)
    assert again.config.speed == SPEED
    assert again.generation_config.eos_token_id == 1
    assert not any(info.values())


@pytest.mark.parametrize("tie_word_embeddings", [False, True])
def test_no_weight_is_missing_or_left_over(tmp_path: Path, tie_word_embeddings: bool) -> None:
    make_tiny_model(tmp_path, num_layers=4, speed=SPEED, tie_word_embeddings=tie_word_embeddings)
    _, info = SpeedLlamaForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())


@pytest.mark.parametrize(
    ("speed", "named"),
    [
        (None, "speed=None is not an object"),
        ({}, r"speed\.prefill_layers is missing"),
        ({"prefill_layers": 5}, "prefill_layers=5 is not between 1 and 4"),
        ({"prefill_layers": 3, "tail_tokens": 0}, "tail_tokens=0 is below 1"),
        ({"prefill_layers": 3, "anchors": 1}, r"speed\.anchors is not known"),
    ],
)
def test_a_bad_speed_object_on_disk_is_refused(checkpoint: Path, speed: Any, named: str) -> None:
    edit_config(checkpoint, speed=speed)
    for load in (SpeedLlamaConfig, AutoConfig, SpeedLlamaForCausalLM, AutoModelForCausalLM):
        with pytest.raises(ConfigError, match=named):
            load.from_pretrained(checkpoint)


def test_a_configuration_without_bands_cannot_be_made() -> None:
    with pytest.raises(ConfigError, match="speed=None is not an object"):
        SpeedLlamaConfig()


def test_registering_twice_is_registering_once() -> None:
    register()
    register()


def test_importing_the_configuration_imports_no_modeling_code_and_no_server() -> None:
    code = "import sys, sglang_speed.models.hf_config; print(*sys.modules)"
    modules = run_python(code).split()
    assert "sglang_speed.models.hf_config" in modules
    assert not [name for name in modules if "modeling_llama" in name or name.split(".")[0] == "sglang"]


def test_a_process_that_registered_nothing_can_load_the_tokenizer(checkpoint: Path) -> None:
    """SGLang's detokenizer process loads no plugins. Saving the configuration turns RoPE keys of older Llama
    checkpoints into `rope_parameters`; as they were, transformers could not load the tokenizer there."""
    SpeedLlamaConfig.from_pretrained(edit_config(checkpoint, rope_parameters=None, **LLAMA_3_ROPE)).save_pretrained(
        checkpoint
    )
    saved = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    assert "rope_scaling" not in saved
    code = (
        "import sys; from transformers import AutoTokenizer\n"
        "print(AutoTokenizer.from_pretrained(sys.argv[1])('Wörld 12')['input_ids'])"
    )
    assert json.loads(run_python(code, str(checkpoint))) == ids_of("Wörld 12")
