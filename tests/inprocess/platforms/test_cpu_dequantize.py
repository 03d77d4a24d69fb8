"""Every format of quantized weights is read as it was written, and as other readers read it."""

from __future__ import annotations

import pytest
import torch
from sglang.kernels.ops.quantization.awq_triton import awq_dequantize_decomposition
from torch import Tensor

from sglang_speed.errors import ConfigError
from sglang_speed.platforms.cpu.dequantize import dequantize, split_name
from tests.quantized import FORMATS, Tensors, awq, fp8_of_blocks, gptq, packed_ints

NAME = "model.layers.3.mlp.down_proj.weight"


def matrix(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


def read(tensors: Tensors, config: object) -> Tensor:
    """What is read of one matrix's tensors, which must all be parts of it."""
    parts = {}
    for name, tensor in tensors.items():
        split = split_name(name)
        assert split is not None, name
        parts[split[1]] = tensor
        assert split[0] == (split_name(next(iter(tensors))) or ("",))[0]
    return dequantize(NAME, parts, config or {})


@pytest.mark.parametrize("name", FORMATS)
def test_a_matrix_is_read_as_it_was_written(name: str) -> None:
    form = FORMATS[name]
    weight = matrix(48, 64)
    tensors, expected = form.write(NAME, weight)
    found = read(tensors, form.config)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    # and what was written is the matrix, up to its few bits
    assert (expected - weight).norm() < 0.2 * weight.norm()


@pytest.mark.parametrize("shape", [(48, 64), (50, 70), (24, 16), (5, 3)])
def test_the_last_blocks_may_be_smaller(shape: tuple[int, int]) -> None:
    tensors, expected = fp8_of_blocks(24, 16)(NAME, matrix(*shape))
    torch.testing.assert_close(read(tensors, {"weight_block_size": [24, 16]}), expected)


def test_scales_that_do_not_fit_are_refused() -> None:
    tensors, _ = fp8_of_blocks(24, 16)(NAME, matrix(50, 70))
    with pytest.raises(ConfigError, match="has 3 scales for 50 rows or columns, which do not fit"):
        read(tensors, {})
    with pytest.raises(ConfigError, match="no scale for it, only weight:"):
        read({NAME: tensors[NAME]}, {})


def test_plain_matrices_and_scales_of_the_cache_are_left_alone() -> None:
    weight = matrix(4, 4).bfloat16()
    assert read({NAME: weight}, {}) is weight
    assert split_name("model.layers.0.self_attn.k_proj.k_scale") is None
    assert split_name("model.layers.0.self_attn.q_proj.bias") is None


def test_integers_are_packed_as_compressed_tensors_packs_them() -> None:
    from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32

    tensors, _ = packed_ints(4, 16, False)(NAME, matrix(48, 64))
    parts = {name.rpartition(".")[2]: tensor for name, tensor in tensors.items()}
    whole = unpack_from_int32(parts["weight_packed"], 4, torch.Size((48, 64)))
    zero = unpack_from_int32(parts["weight_zero_point"], 4, torch.Size((48, 4)), packed_dim=0)
    expected = (whole.view(48, 4, 16) - zero[..., None].int()) * parts["weight_scale"][..., None]
    torch.testing.assert_close(read(tensors, {}), expected.flatten(1))


def test_awq_is_read_as_sglang_reads_it() -> None:
    tensors, _ = awq(NAME, matrix(48, 64))
    packed, zeros, scales = (tensors[NAME.removesuffix("weight") + part] for part in ("qweight", "qzeros", "scales"))
    expected = awq_dequantize_decomposition(packed, scales, zeros)
    torch.testing.assert_close(read(tensors, {}), expected.T)


def test_zero_points_of_the_second_gptq_format_are_as_stored() -> None:
    tensors, _ = gptq(4, 16)(NAME, matrix(48, 64))
    first, second = read(tensors, {}), read(tensors, {"checkpoint_format": "gptq_v2"})
    assert not torch.allclose(first, second)
