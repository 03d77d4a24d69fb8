"""Where messages begin, as chat templates of the families say it."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from sglang_speed.checkpoints.convert import convert
from sglang_speed.errors import ConfigError
from tests.tiny_models import tiny_tokenizer

_LOOP = "{% for m in messages %}"
TEMPLATES = {
    "chatml": ("<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n", ["<|im_start|>"]),
    "chatml behind a system prompt": (
        "{% if loop.first %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
        "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n",
        ["<|im_start|>"],
    ),
    "llama 3": (
        "{% if loop.first %}<|begin_of_text|>{% endif %}"
        "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}<|eot_id|>",
        ["<|start_header_id|>"],
    ),
    "one for each role": (
        "{% if loop.first %}[gMASK]{% endif %}<|{{ m.role }}|>{{ m.content }}<|end|>",
        ["<|assistant|>", "<|user|>", "<|tool|>", "<|system|>"],
    ),
    "system at the begin only": (
        "{% if m.role == 'system' and not loop.first or m.role == 'tool' %}{{ raise_exception('no') }}{% endif %}"
        "<|{{ m.role }}|>{{ m.content }}<|end|>",
        ["<|assistant|>", "<|user|>", "<|system|>"],
    ),
    "mistral": (
        "{% if m.role not in ('user', 'assistant') %}{{ raise_exception('no') }}{% endif %}"
        "{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]{% else %}{{ m.content }}</s>{% endif %}",
        ["[INST]"],
    ),
}
SPECIALS = ["<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
SPECIALS += ["[gMASK]", "<|system|>", "<|tool|>", "<|user|>", "<|assistant|>", "<|end|>", "[INST]", "[/INST]"]


def tokenizer_with(body: str) -> PreTrainedTokenizerFast:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIALS})
    tokenizer.chat_template = f"{_LOOP}{body}{{% endfor %}}"
    return tokenizer


@pytest.mark.parametrize("name", TEMPLATES)
def test_delimiters_are_those_of_the_template(name: str, llama: Path, tmp_path: Path) -> None:
    body, expected = TEMPLATES[name]
    tokenizer = tokenizer_with(body)
    tokenizer.save_pretrained(llama)
    made = convert(llama, tmp_path / "speed", prefill_layers=3, deep_message_tokens=9)
    assert made.speed.messages is not None
    assert made.speed.messages.max_tokens == 9
    assert list(made.speed.messages.delimiters) == [(tokenizer.convert_tokens_to_ids(each),) for each in expected]


def test_a_template_without_special_tokens_is_told_how_to_name_one(llama: Path, tmp_path: Path) -> None:
    tokenizer_with("{{ m.role }}: {{ m.content }}\n").save_pretrained(llama)
    with pytest.raises(ConfigError, match=r"begins messages with no special token .* --message-delimiter"):
        convert(llama, tmp_path / "speed", prefill_layers=3, deep_message_tokens=9)
    named = convert(
        llama, tmp_path / "speed", prefill_layers=3, deep_message_tokens=9, message_delimiters=["user:", "assistant:"]
    )
    assert named.speed.messages is not None
    assert [len(each) for each in named.speed.messages.delimiters] == [len("user:"), len("assistant:")]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"message_delimiters": ["<|im_start|>"]}, "no length makes one deep: add --deep-message-tokens"),
        ({"deep_message_tokens": 9, "message_delimiters": [""]}, "--message-delimiter '' has no tokens"),
    ],
    ids=str,
)
def test_senseless_delimiters_are_refused(
    settings: dict[str, object], problem: str, llama: Path, tmp_path: Path
) -> None:
    tokenizer_with(TEMPLATES["chatml"][0]).save_pretrained(llama)
    with pytest.raises(ConfigError, match=problem):
        convert(llama, tmp_path / "speed", prefill_layers=3, **settings)


def test_a_checkpoint_without_a_tokenizer_is_named(llama: Path, tmp_path: Path) -> None:
    for path in llama.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ConfigError, match=r"has no readable tokenizer .* leave out --deep-message-tokens"):
        convert(llama, tmp_path / "speed", prefill_layers=3, deep_message_tokens=9)
