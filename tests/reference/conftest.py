"""Tiny models for the tests of the reference."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from transformers import LlamaForCausalLM

from sglang_speed.reference.modeling import SpeedLlamaForCausalLM
from tests.one_thread import one_thread  # noqa: F401
from tests.tiny_models import make_tiny_llama

NUM_LAYERS = 4
SHAPE = {"num_layers": NUM_LAYERS, "hidden_size": 32, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8}

SpeedModels = Callable[..., SpeedLlamaForCausalLM]


@pytest.fixture(scope="session")
def plain_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("plain"), **SHAPE)


@pytest.fixture(scope="session")
def stock_model(plain_directory: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(plain_directory).eval()


@pytest.fixture(scope="session")
def speed_model(tmp_path_factory: pytest.TempPathFactory) -> SpeedModels:
    """The stock model's weights under given bands: speed_model(prefill_layers, anchor_tokens, tail_tokens)."""

    @cache
    def build(prefill_layers: int, anchor_tokens: int = 1, tail_tokens: int = 2) -> SpeedLlamaForCausalLM:
        speed = {"prefill_layers": prefill_layers, "anchor_tokens": anchor_tokens, "tail_tokens": tail_tokens}
        directory = make_tiny_llama(tmp_path_factory.mktemp("speed"), **SHAPE, speed=speed)
        return SpeedLlamaForCausalLM.from_pretrained(directory).eval()

    return build
