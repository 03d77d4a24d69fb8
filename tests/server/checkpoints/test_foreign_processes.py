"""Processes in which nothing of this package is imported: they must not serve our checkpoints, and SGLang's
detokenizer, which is one of them, must read our tokenizers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from sglang_speed.checkpoints.convert import convert
from tests.server.checkpoints.helpers import LLAMA_3_ROPE, edit_json, run_python

TEXT = "Wörld 12, 東京 🙂"
LOAD_MODEL = """
import sys
from transformers import AutoConfig, AutoModelForCausalLM
for auto in (AutoConfig, AutoModelForCausalLM):
    try:
        auto.from_pretrained(sys.argv[1])
    except ValueError as error:
        print("does not recognize this architecture" in str(error))
"""
LOAD_TOKENIZERS = """
import json, sys
from transformers import AutoTokenizer
for directory in sys.argv[2:]:
    tokenizer = AutoTokenizer.from_pretrained(directory)
    ids = tokenizer(sys.argv[1])["input_ids"]
    print(json.dumps([type(tokenizer).__name__, ids, tokenizer.decode(ids, skip_special_tokens=True)]))
"""
LIKE_SGLANG = """
import sys
from sglang.srt.utils.hf_transformers_utils import get_tokenizer
tokenizer = get_tokenizer(sys.argv[2])
print(tokenizer.decode(tokenizer(sys.argv[1])["input_ids"], skip_special_tokens=True))
"""


def old_rope(llama: Path) -> None:
    edit_json(llama / "config.json", rope_parameters=None, rope_scaling=LLAMA_3_ROPE, rope_theta=500000.0)


def class_in_model_config(llama: Path) -> None:
    edit_json(llama / "tokenizer_config.json", tokenizer_class=None)
    edit_json(llama / "config.json", tokenizer_class="PreTrainedTokenizerFast")


def no_class(llama: Path) -> None:
    edit_json(llama / "tokenizer_config.json", tokenizer_class=None)


def no_tokenizer_config(llama: Path) -> None:
    (llama / "tokenizer_config.json").unlink()


def llama_2_class(llama: Path) -> None:
    edit_json(llama / "tokenizer_config.json", tokenizer_class="LlamaTokenizerFast")


def test_a_plain_process_refuses_the_model(llama: Path, tmp_path: Path) -> None:
    made = convert(llama, tmp_path / "speed", prefill_layers=3)
    assert run_python(LOAD_MODEL, made.path).split() == ["True", "True"]


def test_a_plain_process_reads_tokenizers_as_their_sources_had_them(llama: Path, tmp_path: Path) -> None:
    converted, expected = [], []
    for edit in (old_rope, class_in_model_config, no_class, no_tokenizer_config, llama_2_class):
        source = Path(shutil.copytree(llama, tmp_path / edit.__name__))
        edit(source)
        converted.append(convert(source, tmp_path / f"{edit.__name__}-speed", prefill_layers=3).path)
        expected.append(tokenizer_facts(source))
    lines = run_python(LOAD_TOKENIZERS, TEXT, *converted).splitlines()
    assert [json.loads(line) for line in lines] == expected


def test_the_detokenizers_loader_reads_the_tokenizer(llama: Path, tmp_path: Path) -> None:
    pytest.importorskip("sglang", reason="SGLang is not installed")
    old_rope(llama)
    made = convert(llama, tmp_path / "speed", prefill_layers=3)
    assert run_python(LIKE_SGLANG, TEXT, made.path).splitlines()[-1] == TEXT


def test_a_source_without_tokenizer_gets_none(llama: Path, tmp_path: Path) -> None:
    for path in llama.glob("tokenizer*"):
        path.unlink()
    made = convert(llama, tmp_path / "speed", prefill_layers=3)
    assert not list(made.path.glob("tokenizer*"))


def tokenizer_facts(directory: Path) -> list[Any]:
    tokenizer = AutoTokenizer.from_pretrained(directory)
    ids = tokenizer(TEXT)["input_ids"]
    return [type(tokenizer).__name__, ids, tokenizer.decode(ids, skip_special_tokens=True)]
