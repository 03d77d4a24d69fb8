"""The real default model: its numbers, its tokenizer, its answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sglang_speed.checkpoints.describe import describe

# The published vocabulary lacks six control characters and the first bytes of planes 4 to 11, which are unassigned
SPELLABLE = st.characters(
    max_codepoint=0x3FFFF, exclude_categories=["Cs"], exclude_characters="\x04\x06\x13\x14\x16\x1d"
)
TEXTS = [
    "In 2024 there were 31415926535 of them, 0.5% more",
    "naïve café, Ångström, Привет, ελληνικά",
    "東京は日本の首都です。 你好,世界 안녕하세요",
    "🙂 👩‍👩‍👧 🇫🇷 done",
    "  two spaces,\ttab\n\n  lines \r\n",
    "def f(x): return x**2  # 100",
    "",
]


@pytest.fixture(scope="module")
def tokenizer(built_default_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(built_default_model)


def test_its_config_is_that_of_the_published_model(built_default_model: Path) -> None:
    config = json.loads((built_default_model / "config.json").read_text(encoding="utf-8"))
    published = {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_theta": 100000.0, "rope_type": "default"},
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "speed": {"prefill_layers": 24, "anchor_tokens": 1, "tail_tokens": 16},
    }
    assert {key: config[key] for key in published} == published
    generation = json.loads((built_default_model / "generation_config.json").read_text(encoding="utf-8"))
    assert generation["eos_token_id"] == 2


def test_it_has_all_weights_in_bfloat16(built_default_model: Path) -> None:
    weights = describe(built_default_model).weights
    assert (weights.num_parameters, weights.num_layers, weights.dtype) == (134_515_008, 30, "bfloat16")


def test_its_special_tokens_are_the_published_ones(tokenizer: Any) -> None:
    assert (tokenizer.bos_token, tokenizer.bos_token_id) == ("<|im_start|>", 1)
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|im_end|>", 2)
    assert tokenizer.pad_token_id == 2
    assert (tokenizer.unk_token, tokenizer.unk_token_id) == ("<|endoftext|>", 0)
    assert len(tokenizer) == 49152


@pytest.mark.parametrize("text", TEXTS)
def test_texts_survive_the_tokenizer(text: str, tokenizer: Any) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(SPELLABLE))
def test_any_text_it_can_spell_survives_the_tokenizer(text: str, tokenizer: Any) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_its_tokenizer_has_the_published_pipeline(built_default_model: Path) -> None:
    parts = json.loads((built_default_model / "tokenizer.json").read_text(encoding="utf-8"))
    digits, bytes_ = parts["pre_tokenizer"]["pretokenizers"]
    assert digits == {"type": "Digits", "individual_digits": True}
    assert (bytes_["type"], bytes_["add_prefix_space"]) == ("ByteLevel", False)
    assert parts["decoder"]["type"] == "ByteLevel"
    assert parts["normalizer"] is None
    assert parts["post_processor"] is None


def test_digits_are_tokens_of_their_own(tokenizer: Any) -> None:
    assert tokenizer.tokenize("in 2024") == ["in", "Ġ", "2", "0", "2", "4"]


def test_a_chat_begins_with_the_bos_token_and_the_default_system_prompt(tokenizer: Any) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    assert tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    chat = tokenizer.apply_chat_template(messages, return_dict=True)
    assert chat["input_ids"][0] == tokenizer.bos_token_id


def test_its_weights_answer_a_question(built_default_model: Path, tokenizer: Any, tmp_path: Path) -> None:
    """At full depth, by transformers' own Llama: a wrong row order or a lost scale gives noise."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = json.loads((built_default_model / "config.json").read_text(encoding="utf-8"))
    LlamaConfig(**{**config, "model_type": "llama", "speed": None}).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").symlink_to(built_default_model / "model.safetensors")
    model = LlamaForCausalLM.from_pretrained(tmp_path, generation_config=None)
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**prompt, max_new_tokens=12, do_sample=False)
    answer = tokenizer.decode(output[0, prompt["input_ids"].shape[1] :])
    assert answer == "The capital of France is Paris.<|im_end|>"
