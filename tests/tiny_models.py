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
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

BOS_ID, EOS_ID = 0, 1
FIRST_BYTE_ID = 2
VOCAB_SIZE = FIRST_BYTE_ID + 256
GAIN = 1.6
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def make_tiny_llama(
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
) -> Path:
    """Write a float32 safetensors checkpoint with its tokenizer and return its directory.

    speed: the `speed` object of a SPEED checkpoint; None writes a plain one.
    model_type: of another architecture, as transformers calls it.
    head_dim: some attention kernels on GPUs accept 64 or 128 only.
    """
    config = CONFIG_MAPPING[model_type](
        vocab_size=VOCAB_SIZE,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_kv_heads,
        head_dim=head_dim,
        max_position_embeddings=max_position_embeddings,
        tie_word_embeddings=tie_word_embeddings,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
    )
    model = AutoModelForCausalLM.from_config(config)
    draw_weights(model, seed)
    model.save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    if speed is not None:
        _make_speed_checkpoint(directory, speed)
    return directory


def draw_weights(model: PreTrainedModel, seed: int) -> None:
    """Fill the model's weights in place; norms stay at one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2:
                std = 1.0 if "embed_tokens" in name else GAIN / math.sqrt(weight.shape[1])
                weight.normal_(0.0, std, generator=generator)
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
