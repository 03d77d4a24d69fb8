"""An architecture is a row: served, and computed by the reference, without a word about it anywhere else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sglang.srt.configs.model_config import ModelConfig

from sglang_speed.checkpoints.convert import convert
from sglang_speed.models import hf_config
from sglang_speed.models.architectures import ARCHITECTURES, Architecture
from sglang_speed.reference import modeling
from tests.catalogue import CHUNKS_OF_17, MODELS, SHAPE, Bands
from tests.inprocess.parity.expected import Ask, Expected, prompt, tokens
from tests.scheduler_harness import running_scheduler
from tests.tiny_models import make_tiny_llama

ROWS = (Architecture("qwen3", "Qwen3ForCausalLM"),)


@pytest.fixture(params=ROWS, ids=lambda row: row.model_type)
def row(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Architecture]:
    monkeypatch.setitem(ARCHITECTURES, request.param.model_type, request.param)
    monkeypatch.setitem(MODELS, request.param.model_type, {**SHAPE, "model_type": request.param.model_type})
    hf_config.register()
    modeling.register(request.param)
    return request.param


@pytest.mark.parametrize("bands", [Bands(), Bands((3, 6), 2, 4)], ids=str)
def test_an_architecture_of_one_row_is_served_exactly(row: Architecture, bands: Bands, tmp_path: Path) -> None:
    expected = Expected(tmp_path, bands, model=row.model_type)
    prompts = [prompt(length, seed=length) for length in (2, 17, 90)]
    with running_scheduler(expected.path, **CHUNKS_OF_17) as engine:
        assert engine.scheduler.model_config.hf_config.architectures == [row.name]
        cold = expected.answered(engine, [Ask(one) for one in prompts] + [Ask(prompts[-1], scored_from=70)])
        longer = [one + answer.output_ids + tokens(3) for one, answer in zip(prompts, cold, strict=False)]
        warm = expected.answered(engine, [Ask(one) for one in longer])
    assert warm[-1].cached_tokens > 0


def test_its_checkpoints_are_converted(row: Architecture, tmp_path: Path) -> None:
    source = make_tiny_llama(tmp_path / "stock", model_type=row.model_type)
    made = convert(source, tmp_path / "speed", prefill_layers=6)
    config = ModelConfig(str(made.path)).hf_config
    assert (config.model_type, config.architectures, config.speed["prefill_layers"]) == (row.model_type, [row.name], 6)
