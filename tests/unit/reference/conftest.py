"""Tiny models for the tests of the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo
from torch._dynamo.utils import counters
from torch.nn.attention import flex_attention
from transformers import AutoModelForCausalLM, LlamaForCausalLM
from transformers.integrations.flex_attention import WrappedFlexAttention

from sglang_speed.reference import turn_attention
from sglang_speed.reference.modeling import SpeedLlamaForCausalLM
from tests.catalogue import MODELS
from tests.one_thread import one_thread  # noqa: F401
from tests.tiny_models import make_tiny_model

NUM_LAYERS = 4
SHAPE = {"num_layers": NUM_LAYERS, "hidden_size": 32, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8}

SpeedModels = Callable[..., SpeedLlamaForCausalLM]
MOST_TRACES = 5
"""With gradients and without, of one block of rows and of several: four, and one more than needed."""


@pytest.fixture(scope="session")
def plain_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("plain"), **SHAPE)


@pytest.fixture(scope="session")
def stock_model(plain_directory: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(plain_directory).eval()


@pytest.fixture(scope="session")
def speed_model(tmp_path_factory: pytest.TempPathFactory) -> SpeedModels:
    """The stock model's weights under given bands."""

    @cache
    def build(
        prefill_layers: int, anchor_tokens: int = 1, tail_tokens: int = 2, model: str = "llama", policy: str = "speed"
    ) -> Any:
        bands = {"prefill_layers": prefill_layers, "anchor_tokens": anchor_tokens, "tail_tokens": tail_tokens}
        speed = {**bands, "policy": policy}
        sizes = {**MODELS[model], **SHAPE}
        directory = make_tiny_model(tmp_path_factory.mktemp("speed"), **sizes, speed=speed)
        return AutoModelForCausalLM.from_pretrained(directory).eval()

    return build


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything is traced as on a GPU, and then run by PyTorch's own operators. An error where a function is traced
    more than MOST_TRACES times; after eight PyTorch goes on untraced, and multiplies every row with every row."""
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *tensors: None)  # refuses to train on a CPU
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    monkeypatch.setattr(WrappedFlexAttention, "_instance", None)
    monkeypatch.setattr(turn_attention, "_create_mask", torch.compile(flex_attention.create_block_mask))
    torch._dynamo.reset()
    counters.clear()
    with torch._dynamo.config.patch(disable=False, fail_on_recompile_limit_hit=True, recompile_limit=MOST_TRACES):
        yield
    torch._dynamo.reset()
