"""Quantized checkpoints for tests, each made of a plain one, and the same matrices as every reader must see them.

Owns how the formats are written. Imports no SGLang.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Tensors = dict[str, Tensor]

E4M3 = torch.float8_e4m3fn
E4M3_MAX = 448.0


def is_matrix(name: str) -> bool:
    """Whether tools quantize it: matrices of layers, neither embeddings nor the head nor a router."""
    return name.endswith("_proj.weight")


@dataclass(frozen=True)
class Format:
    """A format of quantized weights.

    write: a matrix by its name, as the tensors that stand for it, and as what they stand for, in float32.
    config: `quantization_config` in config.json. beside: further files, as JSON. skips: parts of names that stay plain.
    kv: scales of the KV cache are written too.
    """

    write: Callable[[str, Tensor], tuple[Tensors, Tensor]]
    config: Mapping[str, Any] | None
    beside: Mapping[str, Any] = field(default_factory=dict)
    skips: tuple[str, ...] = ()
    kv: Callable[[int], Tensors] | None = None


def quantize(source: Path, directory: Path, form: Format) -> Path:
    """Write the quantized checkpoint of a plain or SPEED one; what it stands for takes the place of the source's
    weights. Parts of a matrix lie in two files."""
    shutil.copytree(source, directory)
    weights: Tensors = load_file(source / "model.safetensors")
    quantized, plain = Tensors(), Tensors()
    for name, weight in weights.items():
        if not is_matrix(name) or any(part in name for part in form.skips):
            quantized[name] = plain[name] = weight
            continue
        parts, plain[name] = form.write(name, weight.float())
        quantized |= parts
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    for layer in range(config["num_hidden_layers"]) if form.kv else ():
        quantized |= form.kv(layer)
    _save_in_two(directory, quantized)
    save_file(contiguous(plain), source / "model.safetensors", metadata={"format": "pt"})
    for name, content in form.beside.items():
        (directory / name).write_text(json.dumps(content), encoding="utf-8")
    if form.config is not None:
        config["quantization_config"] = dict(form.config)
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return directory


def _save_in_two(directory: Path, tensors: Tensors) -> None:
    (directory / "model.safetensors").unlink()
    halves = [dict(sorted(tensors.items())[start::2]) for start in (0, 1)]
    files = {f"model-{number}.safetensors": half for number, half in enumerate(halves)}
    for file, half in files.items():
        save_file(contiguous(half), directory / file, metadata={"format": "pt"})
    weight_map = {name: file for file, half in files.items() for name in half}
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def contiguous(tensors: Tensors) -> Tensors:
    return {name: tensor.contiguous().clone() for name, tensor in tensors.items()}


# Writers


def _in_fp8(weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    rounded = (weight / scale).clamp(-E4M3_MAX, E4M3_MAX).to(E4M3)
    return rounded, rounded.float() * scale


def fp8_of_tensor(name: str, weight: Tensor) -> tuple[Tensors, Tensor]:
    scale = weight.abs().max() / E4M3_MAX
    rounded, plain = _in_fp8(weight, scale)
    stem = name.removesuffix("weight")
    return {name: rounded, f"{stem}weight_scale": scale, f"{stem}input_scale": torch.tensor(0.5)}, plain


def fp8_of_rows(name: str, weight: Tensor) -> tuple[Tensors, Tensor]:
    scale = weight.abs().amax(1, keepdim=True) / E4M3_MAX
    rounded, plain = _in_fp8(weight, scale)
    return {name: rounded, f"{name}_scale": scale}, plain


def fp8_of_blocks(rows: int, columns: int) -> Callable[[str, Tensor], tuple[Tensors, Tensor]]:
    def write(name: str, weight: Tensor) -> tuple[Tensors, Tensor]:
        tiles = [[tile.abs().max() / E4M3_MAX for tile in row.split(columns, 1)] for row in weight.split(rows)]
        scale = torch.tensor(tiles)
        spread = scale.repeat_interleave(rows, 0)[: weight.shape[0]]
        spread = spread.repeat_interleave(columns, 1)[:, : weight.shape[1]]
        rounded, plain = _in_fp8(weight, spread)
        return {name: rounded, f"{name}_scale_inv": scale}, plain

    return write


def int8_of_rows(name: str, weight: Tensor) -> tuple[Tensors, Tensor]:
    scale = weight.abs().amax(1, keepdim=True) / 127
    rounded = (weight / scale).round().to(torch.int8)
    return {name: rounded, f"{name}_scale": scale}, rounded.float() * scale


def packed_ints(bits: int, group: int, is_symmetric: bool) -> Callable[[str, Tensor], tuple[Tensors, Tensor]]:
    """As compressed-tensors' own functions pack and read them."""
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    def write(name: str, weight: Tensor) -> tuple[Tensors, Tensor]:
        groups = weight.unflatten(1, (-1, group))
        low, high = groups.amin(-1), groups.amax(-1)
        if is_symmetric:
            scale, zero = groups.abs().amax(-1) / (2 ** (bits - 1) - 1), torch.zeros_like(low)
        else:
            scale = (high - low) / (2**bits - 1)
            zero = (-(2 ** (bits - 1)) - low / scale).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        whole = (groups / scale[..., None] + zero[..., None]).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        plain = ((whole - zero[..., None]) * scale[..., None]).flatten(1)
        stem = name.removesuffix("weight")
        parts = {
            f"{stem}weight_packed": pack_to_int32(whole.flatten(1).to(torch.int8), bits),
            f"{stem}weight_scale": scale,
            f"{stem}weight_shape": torch.tensor(weight.shape),
        }
        if not is_symmetric:
            parts[f"{stem}weight_zero_point"] = pack_to_int32(zero.to(torch.int8), bits, packed_dim=0)
        return parts, plain

    return write


def _grouped(
    weight: Tensor, bits: int, group: int, is_symmetric: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Integers [in, out], zero points and scales [groups, out], and what they stand for, [in, out]."""
    groups = weight.T.unflatten(0, (-1, group))
    low, high = groups.amin(1), groups.amax(1)
    if is_symmetric:
        high = torch.maximum(high, -low) * 2 ** (bits - 1) / (2 ** (bits - 1) - 1)
        low = -high
    scale = (high - low) / (2**bits - 1)
    zero = (-low / scale).round().clamp(0, 2**bits - 1)
    if is_symmetric:
        zero = torch.full_like(zero, 2 ** (bits - 1))
    whole = (groups / scale[:, None] + zero[:, None]).round().clamp(0, 2**bits - 1)
    return whole.flatten(0, 1).int(), zero.int(), scale, ((whole - zero[:, None]) * scale[:, None]).flatten(0, 1)


def _pack(values: Tensor, bits: int, order: tuple[int, ...]) -> Tensor:
    """Columns into int32; order: which of a word's columns lies in each of its places, lowest first."""
    words = values.unflatten(1, (-1, len(order)))
    return sum((words[..., column] << (bits * place) for place, column in enumerate(order))).int()


def awq(name: str, weight: Tensor, group: int = 16) -> tuple[Tensors, Tensor]:
    whole, zero, scale, plain = _grouped(weight, 4, group)
    stem, order = name.removesuffix("weight"), (0, 2, 4, 6, 1, 3, 5, 7)
    parts = {"qweight": _pack(whole, 4, order), "qzeros": _pack(zero, 4, order), "scales": scale}
    return {stem + part: tensor for part, tensor in parts.items()}, plain.T


def gptq(
    bits: int, group: int, *, in_order: bool = True, is_symmetric: bool = False
) -> Callable[[str, Tensor], tuple[Tensors, Tensor]]:
    """in_order: consecutive rows form the groups; otherwise `g_idx` says something else, as with desc_act."""

    def write(name: str, weight: Tensor) -> tuple[Tensors, Tensor]:
        size = weight.shape[1]
        order = torch.arange(size) if in_order else torch.randperm(size, generator=torch.Generator().manual_seed(1))
        whole, zero, scale, plain = _grouped(weight[:, order], bits, group, is_symmetric)
        back = order.argsort()
        places = tuple(range(32 // bits))
        parts = {
            "qweight": _pack(whole[back].T, bits, places).T,
            "qzeros": _pack((zero - 1) & (2**bits - 1), bits, places),
            "scales": scale,
            "g_idx": (torch.arange(size) // group)[back].int(),
        }
        return {name.removesuffix("weight") + part: tensor for part, tensor in parts.items()}, plain[back].T

    return write


NF4 = torch.tensor(
    [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
        *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
        *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ]
)


def nf4(name: str, weight: Tensor, block: int = 64) -> tuple[Tensors, Tensor]:
    """bitsandbytes, whose scales are quantized again."""
    blocks = weight.flatten().unflatten(0, (-1, block))
    absmax = blocks.abs().amax(1)
    offset, table = absmax.mean(), torch.linspace(-1, 1, 256)
    outer = (absmax - offset).abs().max()
    inner = ((absmax - offset) / outer)[:, None].sub(table).abs().argmin(1)
    absmax = table[inner] * outer + offset
    codes = (blocks / absmax[:, None])[..., None].sub(NF4).abs().argmin(-1).flatten()
    state = {"quant_type": "nf4", "blocksize": block, "dtype": "float32", "shape": list(weight.shape)}
    state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": offset.item()}
    assert len(inner) <= 256
    parts = {
        name: (codes[0::2] << 4 | codes[1::2]).to(torch.uint8)[:, None],
        f"{name}.absmax": inner.to(torch.uint8),
        f"{name}.quant_map": NF4,
        f"{name}.nested_absmax": outer[None],
        f"{name}.nested_quant_map": table,
        f"{name}.quant_state.bitsandbytes__nf4": torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8),
    }
    return parts, (NF4[codes].view(-1, block) * absmax[:, None]).view(weight.shape)


def int8_of_bitsandbytes(name: str, weight: Tensor) -> tuple[Tensors, Tensor]:
    largest = weight.abs().amax(1)
    rounded = (weight * 127 / largest[:, None]).round().to(torch.int8)
    parts = {name: rounded, f"{name.removesuffix('weight')}SCB": largest}
    return parts, rounded.float() * largest[:, None] / 127


def nvfp4(name: str, weight: Tensor) -> tuple[Tensors, Tensor]:
    """ModelOpt: pairs of fp4, an fp8 scale for each sixteen, a scale for all."""
    whole_scale = weight.abs().max() / (6 * E4M3_MAX)
    groups = weight.unflatten(1, (-1, 16))
    scale = (groups.abs().amax(-1) / 6 / whole_scale).to(E4M3)
    values = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    values = torch.cat([values, -values])
    step = scale.float()[..., None] * whole_scale
    codes = (groups / step)[..., None].sub(values).abs().argmin(-1)
    packed = (codes[..., 0::2] | codes[..., 1::2] << 4).to(torch.uint8).flatten(1)
    parts = {name: packed, f"{name}_scale": scale, f"{name}_scale_2": whole_scale}
    return parts, (values[codes] * step).flatten(1)


# Formats


def kv_scales(layer: int) -> Tensors:
    """Of every layer others, and far from 1."""
    prefix = f"model.layers.{layer}.self_attn"
    return {
        f"{prefix}.k_proj.k_scale": torch.tensor(0.05 * (layer + 1)),
        f"{prefix}.v_proj.v_scale": torch.tensor(0.03 * (layer + 2)),
    }


def compressed(
    bits: int, kind: str, strategy: str, form: str, activations: Mapping[str, Any] | None = None, **weights: Any
) -> dict[str, Any]:
    """What compressed-tensors says. activations: how they are quantized; None where they are not."""
    says = {"num_bits": bits, "type": kind, "strategy": strategy, "symmetric": True, "dynamic": False, **weights}
    group = {"targets": ["Linear"], "weights": says, "input_activations": activations, "format": form}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


_AWQ = {"quant_method": "awq", "bits": 4, "group_size": 16, "zero_point": True, "version": "gemm"}
_GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 16, "desc_act": False, "sym": False}
_MODELOPT = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}

FORMATS: Mapping[str, Format] = {
    "fp8": Format(fp8_of_tensor, {"quant_method": "fp8", "activation_scheme": "static"}),
    "fp8 blocks": Format(
        fp8_of_blocks(16, 16),
        {
            "quant_method": "fp8",
            "activation_scheme": "dynamic",
            "weight_block_size": [16, 16],
            "modules_to_not_convert": ["model.layers.7.mlp.down_proj", "model.layers.1.self_attn.o_proj"],
        },
        skips=("layers.7.mlp.down_proj", "layers.1.self_attn.o_proj"),
    ),
    "compressed fp8": Format(fp8_of_rows, compressed(8, "float", "channel", "float-quantized")),
    "compressed int8": Format(int8_of_rows, compressed(8, "int", "channel", "int-quantized")),
    "compressed int4": Format(packed_ints(4, 16, True), compressed(4, "int", "group", "pack-quantized", group_size=16)),
    "compressed int4, zero points": Format(
        packed_ints(4, 16, False), compressed(4, "int", "group", "pack-quantized", group_size=16, symmetric=False)
    ),
    "awq": Format(awq, _AWQ),
    "gptq": Format(gptq(4, 16), _GPTQ),
    "gptq 8 bits in any order": Format(
        gptq(8, 8, in_order=False), _GPTQ | {"bits": 8, "group_size": 8, "desc_act": True}
    ),
    "modelopt fp8": Format(fp8_of_tensor, None, beside={"hf_quant_config.json": _MODELOPT}, kv=kv_scales),
    "modelopt fp4": Format(nvfp4, {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16}),
    "bitsandbytes": Format(nf4, {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}),
    "bitsandbytes int8": Format(int8_of_bitsandbytes, {"quant_method": "bitsandbytes", "load_in_8bit": True}),
    "w8a8 int8": Format(int8_of_rows, {"quant_method": "w8a8_int8"}),
}
"""By name. Sizes of groups are small, as the models are."""
