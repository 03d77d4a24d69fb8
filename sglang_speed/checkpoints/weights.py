"""The safetensors files of a checkpoint directory, read without loading a tensor.

Owns which files are the weights and what their headers say.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sglang_speed.config import decoder_config
from sglang_speed.errors import ConfigError
from sglang_speed.models.architectures import known_architecture
from sglang_speed.quantization import Quantization, quantization_at

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
NUM_SAMPLES, SAMPLE_BYTES = 32, 1024
"""Of each file, for `sample_digest`."""

# the dtypes of the format that are served in depth bands: bytes and torch's name
_DTYPES = {"F32": (4, "float32"), "F16": (2, "float16"), "BF16": (2, "bfloat16")}
_QUANTIZED_BYTES = {"F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I8": 1, "U8": 1, "I32": 4, "I64": 8, "BOOL": 1}
_BESIDE = re.compile(
    r"(?:[_.](?:k|v|q|kv|input|output|weight|activation)?_?(?:global_)?scales?(?:_inv|_2)?|zero_point|qzeros|g_idx|"
    r"weight_shape|weight_format|SCB|absmax|quant_map|quant_state\.\w+)$"
)
"""Ends names of tensors that say how others are quantized."""
_LAYER = re.compile(r"^(?:model\.|language_model\.)*layers\.(\d+)\.")
_EMBEDDING = re.compile(r"^(?:model\.|language_model\.)*embed_tokens\.weight$")


@dataclass(frozen=True)
class Weights:
    """What the headers say.

    num_parameters: elements of all tensors; of quantized ones those that they stand for.
    num_bytes: bytes of all tensors, headers left out.
    dtype: torch's name of the dtype that most elements have, quantized ones aside.
    quantization: of the weights; None where all are plain.
    layers: numbers of the decoder layers that have tensors.
    shapes: of every tensor, by its name. plain: names of those that are not quantized.
    """

    files: tuple[Path, ...]
    num_parameters: int
    num_bytes: int
    dtype: str
    layers: frozenset[int]
    shapes: Mapping[str, tuple[int, ...]]
    quantization: Quantization | None = None
    plain: frozenset[str] = frozenset()

    @property
    def bytes_each(self) -> float | None:
        """Bytes of a quantized weight, on average; None for plain ones, which a server may convert."""
        return None if self.quantization is None else self.num_bytes / self.num_parameters


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


def sample_digest(directory: Path) -> str:
    """A few digits that tell the weights of two machines apart: of the sizes of all files and of blocks spread over
    them, in milliseconds.

    Other training changes every tensor; a single flipped bit is not noticed. ConfigError as `find_weight_files`.
    """
    digest = hashlib.sha256()
    for path in find_weight_files(directory):
        num_bytes = path.stat().st_size
        digest.update(str(num_bytes).encode())
        with path.open("rb") as file:
            for index in range(NUM_SAMPLES):
                file.seek(num_bytes * (index + 1) // (NUM_SAMPLES + 1))
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()[:12]


def read_weights(directory: Path) -> Weights:
    """Read the headers of all weight files; ConfigError for a file that is missing or broken, or has another dtype than
    plain weights where config.json says nothing of others."""
    files = find_weight_files(directory)
    quantization = quantization_at(directory)
    elements: Counter[str] = Counter()
    shapes: dict[str, tuple[int, ...]] = {}
    num_parameters, plain = 0, set()
    for path in files:
        for name, dtype, shape in _read_header(path):
            _require_served(name, dtype, path, quantization)
            elements[dtype] += math.prod(shape)
            num_parameters += round(math.prod(shape) * _stands_for(name, dtype, quantization))
            shapes[name] = shape
            if dtype in _DTYPES:
                plain.add(name)
    of_plain = [dtype for dtype, _ in elements.most_common() if dtype in _DTYPES]
    if not of_plain:
        raise ConfigError(f"{directory} has weight files without a tensor: make the checkpoint again")
    return Weights(
        files=files,
        num_parameters=num_parameters,
        num_bytes=sum(count * _bytes_of(dtype) for dtype, count in elements.items()),
        dtype=_DTYPES[of_plain[0]][1],
        layers=frozenset(int(match[1]) for name in shapes if (match := _LAYER.match(name))),
        shapes=shapes,
        quantization=quantization,
        plain=frozenset(plain),
    )


def _bytes_of(dtype: str) -> int:
    return _DTYPES[dtype][0] if dtype in _DTYPES else _QUANTIZED_BYTES[dtype]


def _stands_for(name: str, dtype: str, quantization: Quantization | None) -> float:
    """Weights that an element stands for."""
    if quantization is None:
        return 1
    if _BESIDE.search(name):
        return 0
    if dtype == "I32":
        return 32 / (quantization.bits or 4)
    return 2 if dtype == "U8" else 1


def require_layers(weights: Weights, config: Mapping[str, Any], directory: Path) -> None:
    """ConfigError if config.json and the weights disagree on the layers or the shape of a matrix.

    Layers that only predict tokens ahead (`num_nextn_predict_layers`) follow the decoder's and may be missing.
    """
    decoder = decoder_config(config)
    num_layers, num_ahead = decoder["num_hidden_layers"], decoder.get("num_nextn_predict_layers") or 0
    if not set(range(num_layers)) <= weights.layers <= set(range(num_layers + num_ahead)):
        raise ConfigError(
            f"{directory} has weights of {len(weights.layers)} decoder layers but num_hidden_layers={num_layers} in "
            "config.json: the two belong to different models; make or download the checkpoint again"
        )
    for name, shape in _matrices(config, weights):
        if _is_quantized(name, weights):
            continue
        if weights.shapes.get(name) != shape:
            found = f"of shape {list(weights.shapes[name])}" if name in weights.shapes else "missing"
            raise ConfigError(
                f"{name} in {directory} is {found}, and by the sizes in config.json it is {list(shape)}: the two "
                "belong to different models; make or download the checkpoint again"
            )


def _is_quantized(name: str, weights: Weights) -> bool:
    """Whether something stands for a matrix, in a shape of its own."""
    if weights.quantization is None or name in weights.plain:
        return False
    stem = name.removesuffix("weight")
    return any(f"{stem}{part}" in weights.shapes for part in ("weight", "qweight", "weight_packed"))


def _matrices(config: Mapping[str, Any], weights: Weights) -> Iterator[tuple[str, tuple[int, int]]]:
    """Name and shape, [out, in], of the matrices that a checkpoint must have: all of a Llama-like one, otherwise the
    embedding; SGLang compares the others as it loads them."""
    decoder = decoder_config(config)
    vocab, hidden = decoder.get("vocab_size", 32000), decoder["hidden_size"]
    yield next(filter(_EMBEDDING.match, weights.shapes), "model.embed_tokens.weight"), (vocab, hidden)
    if not known_architecture(config).is_like_llama:
        return
    for layer in range(decoder["num_hidden_layers"]):
        for part, shape in _llama_layer(decoder).items():
            yield f"model.layers.{layer}.{part}.weight", shape
    if not decoder.get("tie_word_embeddings", False):
        yield "lm_head.weight", (vocab, hidden)


def _llama_layer(decoder: Mapping[str, Any]) -> Mapping[str, tuple[int, int]]:
    hidden, inner, num_heads = (decoder[key] for key in ("hidden_size", "intermediate_size", "num_attention_heads"))
    head_dim = decoder.get("head_dim") or hidden // num_heads
    heads, kv_heads = num_heads * head_dim, (decoder.get("num_key_value_heads") or num_heads) * head_dim
    return {
        **{f"self_attn.{part}_proj": (size, hidden) for part, size in (("q", heads), ("k", kv_heads), ("v", kv_heads))},
        "self_attn.o_proj": (hidden, heads),
        **{f"mlp.{part}_proj": (inner, hidden) for part in ("gate", "up")},
        "mlp.down_proj": (hidden, inner),
    }


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


def _read_header(path: Path) -> list[tuple[str, str, tuple[int, ...]]]:
    """(tensor name, dtype, shape) of each tensor of a file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return [(name, part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()]
    except (SafetensorError, OSError) as error:
        raise ConfigError(
            f"{path} is not a complete safetensors file ({error}): download it or make the checkpoint again"
        ) from error


def _require_served(name: str, dtype: str, path: Path, quantization: Quantization | None) -> None:
    if dtype in _DTYPES or (quantization is not None and dtype in _QUANTIZED_BYTES):
        return
    raise ConfigError(
        f"{name} in {path} has dtype {dtype}, and {', '.join(_DTYPES)} are served where config.json says nothing of "
        "quantized weights: download the checkpoint again, or take the one that it was made from"
    )
