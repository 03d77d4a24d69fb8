"""Random Llama checkpoints of a few hundred kilobytes that real servers can load, with a byte-level tokenizer.

Owns what a tiny checkpoint looks like. Imports torch and transformers, never sglang.

The weights are drawn so that greedy output is varied and its margins are healthy: every matrix has standard
deviation `GAIN / sqrt(fan_in)`. Greedy output is printable ASCII: the output rows of the special tokens and of all
other bytes are shrunk, so that no run ends early on `<eos>` and every prefix of the output is valid UTF-8.

The weights depend on the shape and the seed alone, never on `speed`: the plain checkpoint and the SPEED checkpoint
of one seed can be compared.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

BOS_ID, EOS_ID = 0, 1
FIRST_BYTE_ID = 2
VOCAB_SIZE = FIRST_BYTE_ID + 256
GAIN = 1.6
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def make_tiny_model(
    directory: Path,
    *,
    num_layers: int = 8,
    hidden_size: int = 64,
    num_heads: int = 4,
    num_kv_heads: int = 2,
    head_dim: int = 16,
    max_position_embeddings: int = 2048,
    tie_word_embeddings: bool = False,
    seed: int = 0,
    speed: Mapping[str, Any] | None = None,
    model_type: str = "llama",
    **more: Any,
) -> Path:
    """Write a float32 safetensors checkpoint with its tokenizer and return its directory.

    speed: the `speed` object of a SPEED checkpoint; None writes a plain one.
    model_type: of another architecture, as transformers calls it.
    head_dim: some attention kernels on GPUs accept 64 or 128 only.
    """
    settings = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": hidden_size,
        "intermediate_size": 2 * hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": max_position_embeddings,
        "tie_word_embeddings": tie_word_embeddings,
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
        "pad_token_id": EOS_ID,
        **more,
    }
    vision = settings.pop("vision_config", None)
    if vision is None:
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[model_type](**settings))
    else:
        config = CONFIG_MAPPING[model_type](
            text_config=settings, vision_config=vision, tie_word_embeddings=tie_word_embeddings
        )
        model = AutoModelForImageTextToText.from_config(config)
    draw_weights(model, seed)
    model.save_pretrained(directory)
    if more.get("num_nextn_predict_layers"):
        _add_layer_ahead(directory / "model.safetensors", num_layers)
    tiny_tokenizer().save_pretrained(directory)
    if speed is not None:
        _make_speed_checkpoint(directory, speed)
    return directory


def _add_layer_ahead(path: Path, num_layers: int) -> None:
    """Weights of a layer that predicts a token ahead, as published checkpoints have them behind the decoder's."""
    weights = load_file(path)
    last, ahead = f"model.layers.{num_layers - 1}.", f"model.layers.{num_layers}."
    save_file(
        weights | {ahead + name.removeprefix(last): weights[name].clone() for name in weights if last in name}, path
    )


def draw_weights(model: PreTrainedModel, seed: int) -> None:
    """Fill the model's weights in place; norms stay at one.

    Tied embeddings are small, or a model would repeat what it reads. What SGLang keeps in bfloat16 fits it.
    """
    generator = torch.Generator().manual_seed(seed)
    of_embedding = 0.1 if model.config.get_text_config().tie_word_embeddings else 1.0
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() >= 2:
                std = of_embedding if "embed_tokens" in name else GAIN / math.sqrt(weight.shape[-1])
                weight.normal_(0.0, std, generator=generator)
            elif name.endswith(("bias", "sinks")):
                weight.normal_(0.0, 0.3, generator=generator)
                weight.copy_(weight.bfloat16())
        model.get_output_embeddings().weight[_never_generated()] *= 0.1


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte after `<bos>` and `<eos>`; encoding puts `<bos>` first."""
    byte_chars = bytes_to_unicode()
    vocab = {"<bos>": BOS_ID, "<eos>": EOS_ID}
    vocab |= {byte_chars[byte]: FIRST_BYTE_ID + byte for byte in range(256)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", BOS_ID)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<eos>",
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def ids_of(text: str) -> list[int]:
    """Token ids of a text as the tiny tokenizer gives them, `<bos>` first."""
    return [BOS_ID, *(FIRST_BYTE_ID + byte for byte in text.encode())]


def _never_generated() -> list[int]:
    printable = range(FIRST_BYTE_ID + 32, FIRST_BYTE_ID + 127)
    return [token for token in range(VOCAB_SIZE) if token not in printable]


def _make_speed_checkpoint(directory: Path, speed: Mapping[str, Any]) -> None:
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    (name,), model_type = config["architectures"], config["model_type"]
    config |= {"architectures": [f"Speed{name}"], "model_type": f"speed_{model_type}", "speed": dict(speed)}
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
