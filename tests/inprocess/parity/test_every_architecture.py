"""Every architecture of the table: its answers are the reference's, and at full depth stock SGLang's."""

from __future__ import annotations

from pathlib import Path

import pytest
from sglang.srt.configs.model_config import ModelConfig

from sglang_speed.checkpoints.convert import convert, fill_full_depth
from sglang_speed.checkpoints.describe import describe
from sglang_speed.errors import ConfigError
from sglang_speed.models.architectures import ARCHITECTURES
from sglang_speed.served import served
from sglang_speed.serving.metrics import speed_state
from sglang_speed.serving.model import CORE_MODEL_TYPES
from tests import host
from tests.catalogue import CHUNKS_OF_17, FASTKV, MODELS, POP_WITH_ANCHORS, THINNED, Bands
from tests.inprocess.parity.expected import Ask, Expected, forget_anchors, prompt, require_close, submit, tokens
from tests.scheduler_harness import Answer, running_scheduler
from tests.tiny_models import make_tiny_model

SERVED = [model for model in MODELS if not host.IS_OLDEST or model in CORE_MODEL_TYPES]
BANDS = [Bands(), Bands((3, 6), 4, 16), POP_WITH_ANCHORS, FASTKV, THINNED]
FULL_DEPTH = (Bands(8), Bands(4, 0, 1000))
LENGTHS = (2, 17, 41, 90)


def test_every_row_is_tested() -> None:
    assert list(MODELS) == list(ARCHITECTURES)


@pytest.mark.parametrize("bands", BANDS, ids=str)
@pytest.mark.parametrize("model", SERVED)
def test_answers_are_the_references(model: str, bands: Bands, tmp_path: Path) -> None:
    """Cold in a batch and in chunks, with scores, alone; then warm, behind what was answered,
    also where anchors are gone."""
    if bands is THINNED and (host.IS_OLDEST or ARCHITECTURES[model].is_of_transformers):
        pytest.skip("refused, see test_what_cannot_be_thinned_is_refused")
    expected = Expected(tmp_path, bands, model=model)
    longest = 86 if model == "qwen2" else 90  # behind 90 two scores that choose are closer than rounding
    asks = [Ask(prompt(length, seed=length)) for length in (*LENGTHS[:-1], longest)]
    asks.append(Ask(prompt(longest, seed=longest), scored_from=70))
    with running_scheduler(expected.path, **CHUNKS_OF_17) as engine:
        assert engine.scheduler.model_config.hf_config.architectures == [ARCHITECTURES[model].name]
        cold = expected.answered(engine, asks)
        longer = [[*ask.prompt, *answer.output_ids, *tokens(3)] for ask, answer in zip(asks, cold, strict=True)]
        warm = expected.answered(engine, [Ask(one) for one in longer])
        assert warm[-1].cached_tokens > 0
        forget_anchors()
        again = expected.answered(engine, [Ask(longer[-1]), Ask(longer[0])])
        assert again[0].cached_tokens >= warm[-1].cached_tokens
        # in float32 instead of the 16 bits that a server would choose
        kv_bytes = speed_state(served())["kv_bytes_per_prompt_token"]
        assert kv_bytes == 2 * describe(expected.path).prompt_token_kv_bytes
        engine.flush()
        expected.answered(engine, [Ask(longer[-1])])


@pytest.mark.parametrize("model", SERVED)
def test_full_depth_is_the_stock_model(model: str, tmp_path: Path) -> None:
    """All layers are prefill layers, or all tokens are in the tail."""
    ours = [Expected(tmp_path / str(number), bands, model=model).path for number, bands in enumerate(FULL_DEPTH)]
    stock = tmp_path / "stock"
    stock.mkdir()
    fill_full_depth(ours[0], stock)
    expected = _answers(stock)
    for path in ours:
        for one, other in zip(_answers(path), expected, strict=True):
            assert one.output_ids == other.output_ids
            require_close(one.output_logprobs, other.output_logprobs, model)


def _answers(path: Path) -> list[Answer]:
    with running_scheduler(path, deep_tokens=4096, **CHUNKS_OF_17) as engine:
        names = [submit(engine, Ask(prompt(length, seed=length), scored_from=length // 2)) for length in LENGTHS]
        engine.run()
        return [engine.answers[name] for name in names]


@pytest.mark.parametrize("model", ["llama"] if host.IS_OLDEST else ["smollm3", "ernie4_5"])
def test_what_cannot_be_thinned_is_refused(model: str, tmp_path: Path) -> None:
    path = make_tiny_model(tmp_path, speed=THINNED.speed, **MODELS[model])
    for _ in range(2):  # SGLang keeps a configuration that it has read
        with pytest.raises(ConfigError, match="kv_keep is not"), running_scheduler(path):
            pass


@pytest.mark.parametrize("model", SERVED)
def test_its_checkpoints_are_converted(model: str, tmp_path: Path) -> None:
    stock = tmp_path / "stock"
    stock.mkdir()
    fill_full_depth(Expected(tmp_path / "made", Bands(), model=model).path, stock)
    made = convert(stock, tmp_path / "speed", prefill_layers=6)
    config = ModelConfig(str(made.path)).hf_config
    assert (config.model_type, config.architectures) == (model, [ARCHITECTURES[model].name])
    assert config.speed["prefill_layers"] == 6
