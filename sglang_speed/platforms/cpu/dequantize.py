"""Quantized weights as the matrices that they stand for.

Owns how the formats of checkpoints are read: which tensors belong to a matrix, and what they say. Plain PyTorch, in
float32. What quantized layers round besides, such as activations, is not done here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sglang_speed.errors import ConfigError

Parts = Mapping[str, Tensor]
"""The tensors of one matrix, by what follows its name."""
Config = Mapping[str, Any]
"""What a checkpoint says of its quantization, as config.json has it."""

WEIGHT = "weight"
_STATE = "weight.quant_state.bitsandbytes__"
PARTS = (
    *(f"{_STATE}{kind}" for kind in ("nf4", "fp4")),
    *(f"weight.{part}" for part in ("nested_absmax", "nested_quant_map", "absmax", "quant_map")),
    *(f"weight_{part}" for part in ("scale_inv", "scale_2", "scale", "zero_point", "packed", "shape", "g_idx")),
    *("weight_global_scale", "weight_format", "SCB", "qweight", "qzeros", "scales", "g_idx"),
    *("input_scale", "input_global_scale", "input_zero_point", "activation_scale"),
    WEIGHT,
)
"""What follows the name of a matrix."""
OF_KV = ("k_scale", "v_scale", "kv_scale", "output_scale", "q_scale", "k_zero_point", "v_zero_point")
"""Scales of the KV cache, which stay what they are."""

BITS_OF_INT32 = 32
AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where each of eight columns lies in an int32, in steps of four bits."""
FP4 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0])
"""e2m1, by its bits."""
QUANTIZED = (torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.uint8)


def split_name(name: str) -> tuple[str, str] | None:
    """The matrix that a tensor belongs to, by the name that it has unquantized, and which part of it it is."""
    if name.rpartition(".")[2] in OF_KV:
        return None
    for part in PARTS:
        if name.endswith(f".{part}"):
            return f"{name.removesuffix(part)}{WEIGHT}", part
    return None


def dequantize(name: str, parts: Parts, config: Config) -> Tensor:
    """A matrix, [out, in] in float32; as it is where it is not quantized. ConfigError for a format that is not read."""
    reader = next((read for part, read in READERS.items() if any(has.startswith(part) for has in parts)), None)
    if reader is None and parts[WEIGHT].dtype not in QUANTIZED:
        return parts[WEIGHT]
    if reader is None:
        raise ConfigError(
            f"sglang_speed: {name} is {parts[WEIGHT].dtype} and the checkpoint has no scale for it, only "
            f"{', '.join(sorted(parts))}: complete the download, or take the checkpoint that it was made from"
        )
    return reader(name, parts, config)


def _scaled(name: str, parts: Parts, config: Config) -> Tensor:
    """fp8 or int8 with a scale for the whole, a row, a group in a row, or a block."""
    weight = parts[WEIGHT].float()
    scale = parts["weight_scale_inv"] if "weight_scale_inv" in parts else parts["weight_scale"]
    if "weight_zero_point" in parts:
        weight = weight - _spread(name, parts["weight_zero_point"], weight, config)
    return weight * _spread(name, scale, weight, config)


def _spread(name: str, scale: Tensor, weight: Tensor, config: Config) -> Tensor:
    """A scale in a shape that a matrix can be multiplied with."""
    scale = scale.float()
    if scale.numel() == 1:
        return scale.view(1, 1)
    if scale.dim() == 1:
        scale = scale[:, None]
    given = _block_in(config) or (None, None)
    for dim in (0, 1):
        size = _size(name, scale.shape[dim], weight.shape[dim], given[dim])
        scale = scale.repeat_interleave(size, dim).narrow(dim, 0, weight.shape[dim]) if size > 1 else scale
    return scale


def _size(name: str, count: int, length: int, given: int | None) -> int:
    """Rows or columns that share one of `count` scales; 1 where there is one for each, or one for all."""
    if count in (1, length):
        return 1
    size = given if given is not None else length // count
    if -(-length // size) != count or (given is None and length % count):
        raise ConfigError(
            f"sglang_speed: {name} has {count} scales for {length} rows or columns, which do not fit: download the "
            "checkpoint again"
        )
    return size


def _block_in(config: Config) -> Sequence[int] | None:
    """The block size that a checkpoint says, in the places of several formats."""
    if config.get("weight_block_size"):
        return list(config["weight_block_size"])
    for group in (config.get("config_groups") or {}).values():
        structure = (group.get("weights") or {}).get("block_structure")
        if structure:
            return [int(size) for size in structure.split("x")] if isinstance(structure, str) else list(structure)
    return None


def _packed(name: str, parts: Parts, config: Config) -> Tensor:
    """compressed-tensors: integers in int32, or pairs of fp4 in a byte."""
    packed, scale = parts["weight_packed"], parts["weight_scale"].float()
    if packed.dtype == torch.uint8:
        return _fp4(packed) * (scale / parts["weight_global_scale"].float()).repeat_interleave(16, 1)
    num_rows, num_columns = parts["weight_shape"].tolist()
    bits = _bits(name, packed.shape[1], num_columns)
    weight = _unpacked(packed, bits)[:, :num_columns] - 2 ** (bits - 1)
    groups = _groups(parts.get("weight_g_idx"), num_columns, scale.shape[1])
    if "weight_zero_point" in parts:
        zeros = _unpacked(parts["weight_zero_point"].T, bits).T[:num_rows] - 2 ** (bits - 1)
        weight = weight - zeros[:, groups]
    return weight * scale[:, groups]


def _by_columns(name: str, parts: Parts, config: Config) -> Tensor:
    """AWQ and GPTQ, which keep the transposed matrix: AWQ packs its columns, GPTQ its rows."""
    packed, zeros, scales = parts["qweight"], parts["qzeros"], parts["scales"].float()
    num_columns = scales.shape[1]
    bits = _bits(name, zeros.shape[1], num_columns)
    if packed.shape[1] == num_columns:
        weight = _unpacked(packed.T, bits).T
        is_as_stored = config.get("checkpoint_format") == "gptq_v2"
        zero = _unpacked(zeros, bits) if is_as_stored else (_unpacked(zeros, bits) + 1) & (2**bits - 1)
    else:
        weight, zero = (_unpacked(each, bits)[:, _of_awq(num_columns)] for each in (packed, zeros))
    groups = _groups(parts.get("g_idx"), len(weight), len(scales))
    return ((weight - zero[groups]) * scales[groups]).T.contiguous()


def _of_awq(num_columns: int) -> Tensor:
    """Where columns lie that AWQ has packed."""
    return (torch.arange(0, num_columns, 8)[:, None] + torch.tensor(AWQ_ORDER)).flatten()


def _bits(name: str, num_packed: int, num_values: int) -> int:
    bits = num_packed * BITS_OF_INT32 // num_values
    if bits not in (2, 4, 8):
        raise ConfigError(f"sglang_speed: {name} has {bits} bits a weight; 2, 4 and 8 are read")
    return bits


def _unpacked(packed: Tensor, bits: int) -> Tensor:
    """Unsigned integers of some bits, lowest first. packed: int32, [rows, columns]."""
    shifts = torch.arange(0, BITS_OF_INT32, bits, dtype=torch.int32)
    return ((packed[..., None] >> shifts) & (2**bits - 1)).flatten(-2)


def _groups(given: Tensor | None, num_values: int, num_groups: int) -> Tensor:
    """The group of each of a row's values."""
    if given is not None and len(given):
        return given.long()
    return torch.arange(num_values) // -(-num_values // num_groups)


def _fp4(packed: Tensor) -> Tensor:
    """Values of e2m1, the first of two in the lower bits. packed: uint8, [..., num / 2]."""
    return FP4[torch.stack([packed & 0xF, packed >> 4], dim=-1).flatten(-2).int()]


def _modelopt_fp4(name: str, parts: Parts, config: Config) -> Tensor:
    scale = parts["weight_scale"].float() * parts["weight_scale_2"].float()
    return _fp4(parts[WEIGHT]) * scale.repeat_interleave(16, 1)


def _bitsandbytes_4_bits(name: str, parts: Parts, config: Config) -> Tensor:
    """A table of sixteen values, and a scale for each block of the flattened matrix, which may be quantized again."""
    (state_name,) = (part for part in parts if part.startswith(_STATE))
    state = json.loads(bytes(parts[state_name].tolist()).decode())
    codes, absmax = parts[WEIGHT].flatten(), parts["weight.absmax"]
    if "weight.nested_absmax" in parts:
        values = parts["weight.nested_quant_map"][absmax.int()]
        scales = parts["weight.nested_absmax"].repeat_interleave(state["nested_blocksize"])
        absmax = values * scales[: len(values)] + state["nested_offset"]
    values = parts["weight.quant_map"].float()[torch.stack([codes >> 4, codes & 0xF], dim=-1).flatten().int()]
    num_values = torch.Size(state["shape"]).numel()
    scales = absmax.float().repeat_interleave(state["blocksize"])
    return (values[:num_values] * scales[:num_values]).view(state["shape"])


def _bitsandbytes_8_bits(name: str, parts: Parts, config: Config) -> Tensor:
    return parts[WEIGHT].float() * parts["SCB"].float()[:, None] / 127


READERS: Mapping[str, Callable[[str, Parts, Config], Tensor]] = {
    "qweight": _by_columns,
    "weight_packed": _packed,
    _STATE: _bitsandbytes_4_bits,
    "SCB": _bitsandbytes_8_bits,
    "weight_scale_2": _modelopt_fp4,
    "weight_scale": _scaled,
}
"""By a part that only this format has; of several that are there the first counts."""
