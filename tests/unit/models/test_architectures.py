"""What the table of architectures says about a config.json, and that docs/models.md says the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import CONFIG_MAPPING

from sglang_speed.checkpoints.convert import speed_model_config
from sglang_speed.checkpoints.servable import require_servable
from sglang_speed.config import SpeedConfig
from sglang_speed.errors import ConfigError
from sglang_speed.models.architectures import ARCHITECTURES, REFUSED, architecture_of
from sglang_speed.models.hf_config import config_of
from tests.unit.models.table import PAGE, rows

SIZES = {"num_hidden_layers": 8, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}


def config(model_type: str, **more: Any) -> dict[str, Any]:
    names = [ARCHITECTURES[model_type].name] if model_type in ARCHITECTURES else ["Other"]
    return {"model_type": model_type, "architectures": names, **SIZES, **more}


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (config("llama", mlp_bias=True), "no biases there"),
        (config("llama", hidden_act="gelu"), "hidden_act='gelu'"),
        (config("llama", rope_scaling={"type": "su"}), "rope type 'su'"),
        (config("mistral", sliding_window=4096, max_position_embeddings=32768), "sliding_window=4096"),
        (config("llama", rope_scaling="linear"), "rope type 'linear'"),
        (config("ministral3", rope_parameters={"rope_type": "yarn"}), "other than yarn from 16384"),
        (config("mistral"), "sliding_window=4096"),
        (config("qwen2", sliding_window=4096, use_sliding_window=True), "sliding_window=4096"),
        (config("qwen2", dual_chunk_attention_config={}), "dual_chunk_attention_config"),
        (config("qwen3_moe", mlp_only_layers=[0]), "mlp_only_layers"),
        (config("qwen3_moe", tie_word_embeddings=True), "tie_word_embeddings=True"),
        (config("gemma3_text", tie_word_embeddings=False), "tie_word_embeddings=False"),
        (config("gemma3_text", use_bidirectional_attention=True), "what comes after them"),
        (config("mixtral", rope_scaling={"type": "yarn", "factor": 2}), "rope type 'yarn'"),
        (config("llama", rope_scaling={"rope_type": "yarn", "attention_factor": 1.2}), "attention_factor"),
        (config("llama", rope_scaling={"rope_type": "dynamic", "factor": 2}), "rope type 'dynamic'"),
        (
            config(
                "phi3",
                rope_scaling={"rope_type": "longrope"},
                original_max_position_embeddings=4096,
                max_position_embeddings=131072,
            ),
            "'longrope' beyond 4096 tokens",
        ),
        (config("cohere", attention_bias=True), "attention_bias=True"),
        (config("stablelm", use_parallel_residual=True), "use_parallel_residual"),
        (config("exaone4", rope_theta=5e5), "rope_theta"),
        (config("exaone4", sliding_window_pattern=4), "sliding_window_pattern"),
        (config("ministral3", rope_parameters={"rope_type": "default"}), "other than yarn"),
        (config("deepseek_v3", index_topk=2048), "sparse attention"),
        (config("deepseek_v3", rope_interleave=False), "rope_interleave"),
        (config("qwen3_next"), "'qwen3_next' in .* linear attention"),
        (config("falcon_mamba2", auto_map={"AutoModel": "m.M"}), "its code comes with the checkpoint"),
        (config("unheard_of"), "one of qwen3, .*docs/models.md says how to ask"),
    ],
    ids=str,
)
def test_what_is_not_served_is_refused_with_the_reason(found: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        require_servable(found, Path("somewhere"))


@pytest.mark.parametrize(
    "found",
    [
        config("mistral", sliding_window=None),
        config("phi3", sliding_window=262144, max_position_embeddings=131072),
        config("qwen2", sliding_window=4096, use_sliding_window=False),
        config("gemma3_text", hidden_size=640, head_dim=256, sliding_window=512),
        {"model_type": "qwen3_vl", "text_config": {**SIZES, "rope_scaling": {"type": "mrope"}}},
    ],
    ids=str,
)
def test_what_is_served_passes(found: dict[str, Any]) -> None:
    require_servable(found, Path("somewhere"))


@pytest.mark.parametrize(
    ("model_type", "positions"),
    [
        ("llama", {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}}),
        (
            "gemma3_text",
            {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        ),
    ],
)
def test_bands_do_not_change_positions(model_type: str, positions: dict[str, Any]) -> None:
    stock = CONFIG_MAPPING[model_type].from_dict(config(model_type, **positions))
    banded = config_of(speed_model_config(config(model_type, **positions), SpeedConfig(8, 6)))
    assert banded.rope_parameters == stock.rope_parameters


def test_no_type_is_both_served_and_refused() -> None:
    assert not ARCHITECTURES.keys() & REFUSED.keys()


def test_bands_do_not_change_the_row() -> None:
    assert architecture_of({"model_type": "speed_qwen3"}) is ARCHITECTURES["qwen3"]


def test_the_page_has_the_table() -> None:
    """Where this fails: `python -m tests.unit.models.table`."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("| `")] == rows()
