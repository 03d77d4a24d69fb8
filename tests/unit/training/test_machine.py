"""Which precision is taken where; what the user asks for goes before it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from sglang_speed.lab.common import machine
from sglang_speed.lab.training import command
from tests.unit.training.conftest import MakeModel
from tests.unit.training.runs import settings_of


@pytest.fixture(params=[True, False], ids=["fast bfloat16", "slow bfloat16"])
def is_fast(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    fast: bool = request.param
    for module in (command, machine):
        monkeypatch.setattr(module, "has_fast_bfloat16", lambda: fast)
    return fast


def test_a_bfloat16_checkpoint_is_trained_in_what_is_fast(make_model: MakeModel, is_fast: bool) -> None:
    source = make_model()
    LlamaForCausalLM.from_pretrained(source).to(torch.bfloat16).save_pretrained(source)
    model = command.load_model(source, settings_of(first_layer=1))
    assert model.dtype is (torch.bfloat16 if is_fast else torch.float32)
    assert model.entry_layer == 1


def test_a_float32_checkpoint_stays_one(llama: Path, is_fast: bool) -> None:
    assert command.load_model(llama, settings_of()).dtype is torch.float32


def test_answers_are_written_in_what_is_fast(is_fast: bool) -> None:
    flags = machine.answering_flags(24)
    assert flags[:2] == ["--max-running-requests", "24"]
    assert flags[2:] == ([] if is_fast else ["--dtype", "float32"])
