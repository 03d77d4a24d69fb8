"""The real default model: its numbers, its tokenizer, its answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from sglang_speed.checkpoints.adapter import PROVENANCE_NAME, read_provenance
from sglang_speed.checkpoints.default_model import ADAPTER, ADAPTER_SHA256, DEFAULT_SPEED, write_full_depth
from sglang_speed.checkpoints.describe import describe
from sglang_speed.checkpoints.manifest import file_sha256
from sglang_speed.config import SpeedConfig
from sglang_speed.lab.evaluation.subjects import full_depth_of, subjects_of
from sglang_speed.reference.generation import generate_greedy
from sglang_speed.reference.modeling import SpeedLlamaForCausalLM

ROOT = Path(__file__).parents[3]
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
    assert (weights.num_parameters, len(weights.layers), weights.dtype) == (134_515_008, 30, "bfloat16")


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


PROMPT = [{"role": "user", "content": "What is the capital of France?"}]
ANSWER = "The capital of France is Paris.<|im_end|>"


@pytest.fixture(scope="module")
def full_depth(tmp_path_factory: pytest.TempPathFactory, built_default_model: Path) -> Path:
    return write_full_depth(tmp_path_factory.mktemp("full-depth") / "model")


def test_the_model_that_it_was_made_from_answers_a_question(full_depth: Path, tokenizer: Any) -> None:
    """By transformers' own Llama: a wrong row order or a lost scale gives noise."""
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(full_depth, generation_config=None)
    prompt = tokenizer.apply_chat_template(PROMPT, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**prompt, max_new_tokens=12, do_sample=False)
    assert tokenizer.decode(output[0, prompt["input_ids"].shape[1] :]) == ANSWER


def test_it_answers_a_question_as_it_is_served(built_default_model: Path, tokenizer: Any) -> None:
    model = SpeedLlamaForCausalLM.from_pretrained(built_default_model)
    prompt = tokenizer.apply_chat_template(PROMPT, add_generation_prompt=True, return_dict=False)
    assert tokenizer.decode(generate_greedy(model, prompt, 12, eos_token_id=2)) == ANSWER


def test_it_has_what_training_changed_and_nothing_else(built_default_model: Path, full_depth: Path) -> None:
    before, after = (load_file(path / "model.safetensors") for path in (full_depth, built_default_model))
    factors = load_file(ADAPTER)
    trained = {
        f"{name.removeprefix('base_model.model.').removesuffix('.lora_A.weight')}.weight"
        for name in factors
        if name.endswith(".lora_A.weight")
    }
    assert before.keys() == after.keys() > trained
    assert {name for name in before if not torch.equal(before[name], after[name])} == trained
    settings = read_provenance(ADAPTER)["settings"]
    assert SpeedConfig(**settings["speed"]) == DEFAULT_SPEED
    assert {int(name.split(".")[2]) for name in trained} == set(range(settings["first_layer"], 30))


def test_it_says_how_it_was_trained(built_default_model: Path, full_depth: Path) -> None:
    written = json.loads((built_default_model / PROVENANCE_NAME).read_text(encoding="utf-8"))
    assert written == read_provenance(ADAPTER)
    assert written["source_sha256"] == {"model.safetensors": file_sha256(full_depth / "model.safetensors")}
    assert written["last_loss"] < written["first_loss"]
    card = (built_default_model / "README.md").read_text(encoding="utf-8")
    for part in ("license: apache-2.0", "HuggingFaceTB/SmolLM2-135M-Instruct", "24 of 30", PROVENANCE_NAME):
        assert part in card
    assert "Changed: weights dequantized" in (built_default_model / "README.base.md").read_text(encoding="utf-8")


def test_what_is_shipped_is_small_and_that_of_this_version() -> None:
    assert ADAPTER.stat().st_size <= 20e6
    assert file_sha256(ADAPTER) == ADAPTER_SHA256


def test_its_quality_was_measured(built_default_model: Path, full_depth: Path) -> None:
    """What is shipped and no other weights, against the model that it was made from."""
    results = json.loads((ROOT / "benchmarks/results/quality_speed-llama.json").read_text(encoding="utf-8"))
    shipped = {subject.digest for subject in subjects_of(str(built_default_model), [1, 16, 64])}
    assert shipped <= {model["digest"] for model in results["models"]}
    assert results["suite"]["full_depth"] == full_depth_of(str(full_depth)).digest
