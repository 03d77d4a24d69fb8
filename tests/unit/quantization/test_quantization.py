"""What a checkpoint says of quantized weights, and what is made of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sglang_speed.errors import ConfigError
from sglang_speed.quantization import kv_cache_of, quantization_at, quantization_of, require_unquantized

FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic"}
INT4 = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "config_groups": {"group_0": {"weights": {"num_bits": 4}}},
}
MODELOPT = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}


@pytest.mark.parametrize(
    ("says", "name"),
    [
        (FP8, "fp8"),
        (INT4, "compressed-tensors, 4 bits"),
        ({"quant_method": "gptq", "bits": 8}, "gptq, 8 bits"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "modelopt_fp4"),
        ({"quant_algo": "FP8"}, "modelopt_fp8"),
        ({"quant_method": "compressed_tensors", "format": "float-quantized"}, "compressed-tensors"),
    ],
)
def test_methods_have_the_names_of_sglang(says: dict[str, Any], name: str, tmp_path: Path) -> None:
    found = quantization_of({"quantization_config": says}, tmp_path)
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize(
    ("says", "message"),
    [
        ({"quant_method": "humming"}, "by humming"),
        ({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}, "by modelopt's MIXED_PRECISION"),
        (INT4 | {"sparsity_config": {"format": "sparse-24-bitmask"}}, "with sparsity_config"),
        (INT4 | {"transform_config": {"config_groups": {}}}, "with transform_config"),
        (INT4 | {"format": "marlin-24"}, "with format marlin-24"),
    ],
)
def test_what_is_not_served_is_named(says: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"is quantized {message} .*, which is not served"):
        quantization_of({"quantization_config": says}, tmp_path)


def test_a_dense_checkpoint_may_say_that_it_is(tmp_path: Path) -> None:
    assert quantization_of({"quantization_config": INT4 | {"sparsity_config": {"format": "dense"}}}, tmp_path)
    assert quantization_of({"quantization_config": INT4 | {"sparsity_config": {}, "transform_config": {}}}, tmp_path)


def test_modelopt_says_it_in_a_file_of_its_own(tmp_path: Path) -> None:
    assert quantization_at(tmp_path) is None
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(MODELOPT))
    found = quantization_at(tmp_path)
    assert found is not None
    assert (found.method, found.has_fp8_cache) == ("modelopt_fp8", True)
    (tmp_path / "hf_quant_config.json").write_text("{")
    with pytest.raises(ConfigError, match="is not valid JSON"):
        quantization_at(tmp_path)


@pytest.mark.parametrize(
    ("says", "expected"),
    [
        ({}, None),
        ({"kv_cache_quant_algo": "auto"}, None),
        ({"kv_cache_scheme": None}, None),
        ({"kv_cache_scheme": {"type": "float", "num_bits": 8}}, "FP8"),
        ({"kv_cache_quant_algo": "nvfp4"}, "NVFP4"),
        (MODELOPT, "FP8"),
    ],
)
def test_what_is_said_of_the_cache(says: dict[str, Any], expected: str | None) -> None:
    assert kv_cache_of(says) == expected


def test_the_cache_of_compressed_tensors_keeps_the_dtype_of_the_model(tmp_path: Path) -> None:
    """As SGLang has it, which looks for ModelOpt's word alone."""
    found = quantization_of(
        {"quantization_config": INT4 | {"kv_cache_scheme": {"type": "float", "num_bits": 8}}}, tmp_path
    )
    assert found is not None
    assert not found.has_fp8_cache


def test_what_has_no_use_for_quantized_weights_says_so(tmp_path: Path) -> None:
    require_unquantized({}, tmp_path, "trained")
    with pytest.raises(ConfigError, match=r"is quantized \(fp8\) and cannot be trained: take the checkpoint that"):
        require_unquantized({"quantization_config": FP8}, tmp_path, "trained")
