"""The safetensors files of a checkpoint directory, read without loading a tensor.

Owns which files are the weights and what their headers say.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sglang_speed.errors import ConfigError

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"

# https://github.com/huggingface/safetensors: the dtypes of the format, by bits and by torch's name
_DTYPES = {
    "F64": (64, "float64"),
    "F32": (32, "float32"),
    "F16": (16, "float16"),
    "BF16": (16, "bfloat16"),
    "F8_E4M3": (8, "float8_e4m3fn"),
    "F8_E5M2": (8, "float8_e5m2"),
    "I64": (64, "int64"),
    "I32": (32, "int32"),
    "I16": (16, "int16"),
    "I8": (8, "int8"),
    "U8": (8, "uint8"),
    "BOOL": (8, "bool"),
}
_LAYER = re.compile(r"^model\.layers\.(\d+)\.")


@dataclass(frozen=True)
class Weights:
    """What the headers say.

    num_parameters: elements of all tensors.
    num_bytes: bytes of all tensors, headers left out.
    dtype: torch's name of the dtype that most elements have.
    num_layers: decoder layers that have tensors.
    """

    files: tuple[Path, ...]
    num_parameters: int
    num_bytes: int
    dtype: str
    num_layers: int


def find_weight_files(directory: Path) -> tuple[Path, ...]:
    """The safetensors files that hold the model, in the order of their names.

    Raises ConfigError where there are none, where one is missing, or where only another format is present.
    """
    index = directory / INDEX_NAME
    names = _names_in(index) if index.is_file() else [SINGLE_NAME]
    missing = [name for name in names if not (directory / name).is_file()]
    if not missing:
        return tuple(directory / name for name in names)
    if index.is_file():
        raise ConfigError(
            f"{directory} lacks {missing[0]}, one of {len(names)} weight files that {INDEX_NAME} lists: "
            "complete the download or make the checkpoint again"
        )
    raise ConfigError(_no_safetensors(directory))


def read_weights(directory: Path) -> Weights:
    """Read the headers of all weight files; ConfigError for a missing, truncated or broken file."""
    files = find_weight_files(directory)
    elements: Counter[str] = Counter()
    layers: set[int] = set()
    for path in files:
        for name, dtype, count in _read_header(path):
            elements[dtype] += count
            if match := _LAYER.match(name):
                layers.add(int(match[1]))
    if not elements:
        raise ConfigError(f"{directory} has weight files without a tensor: make the checkpoint again")
    return Weights(
        files=files,
        num_parameters=elements.total(),
        num_bytes=sum(count * _bits(dtype, directory) // 8 for dtype, count in elements.items()),
        dtype=_DTYPES[elements.most_common(1)[0][0]][1],
        num_layers=len(layers),
    )


def require_layers(weights: Weights, config: Mapping[str, Any], directory: Path) -> None:
    """ConfigError where config.json and the weights disagree about the number of decoder layers."""
    num_layers = config.get("num_hidden_layers")
    if weights.num_layers != num_layers:
        raise ConfigError(
            f"{directory} has weights of {weights.num_layers} decoder layers but num_hidden_layers={num_layers} in "
            "config.json: the two belong to different models; make or download the checkpoint again"
        )


def _names_in(index: Path) -> list[str]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(weight_map.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{index} has no readable weight_map: complete the download of the checkpoint") from error
    for name in names:
        if Path(name).name != name:
            raise ConfigError(f"{index} lists {name!r}, which is not a file name: weights lie beside their index")
    return names


def _no_safetensors(directory: Path) -> str:
    others = sorted(path.name for suffix in ("bin", "pt", "pth", "gguf") for path in directory.glob(f"*.{suffix}"))
    if not others:
        return f"{directory} has no {SINGLE_NAME} and no {INDEX_NAME}: complete the download of the checkpoint"
    load = f"M.from_pretrained({str(directory)!r}).save_pretrained({str(directory)!r})"
    return (
        f"{directory} has its weights in {others[0]}, and only safetensors are read: write them once with "
        f'python -c "from transformers import AutoModelForCausalLM as M; {load}"'
    )


def _read_header(path: Path) -> list[tuple[str, str, int]]:
    """(tensor name, dtype, elements) of each tensor of a file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            names = list(file.keys())
            slices = [file.get_slice(name) for name in names]
            return [(n, s.get_dtype(), math.prod(s.get_shape())) for n, s in zip(names, slices, strict=True)]
    except SafetensorError as error:
        raise ConfigError(
            f"{path} is not a complete safetensors file ({error}): download it or make the checkpoint again"
        ) from error


def _bits(dtype: str, directory: Path) -> int:
    if dtype not in _DTYPES:
        raise ConfigError(f"{directory} has tensors of dtype {dtype}: known are {', '.join(_DTYPES)}")
    return _DTYPES[dtype][0]
