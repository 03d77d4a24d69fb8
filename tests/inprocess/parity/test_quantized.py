"""Quantized checkpoints: the answers are the reference's with the weights that they stand for.

On the CPU platform, which dequantizes them; kernels are asked in tests/gpu. That SGLang's own quantized layers run in
bands is asked with the kernel of one method in PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from sglang.kernels.ops.quantization.awq_triton import awq_dequantize_decomposition
from sglang.srt.layers.quantization.awq.awq import AWQConfig, AWQLinearMethod
from transformers import AutoModelForCausalLM

from sglang_speed.checkpoints.convert import convert
from sglang_speed.checkpoints.describe import describe
from sglang_speed.config import SpeedConfig
from sglang_speed.errors import ConfigError
from sglang_speed.host.adapter import HOST
from sglang_speed.models.banded import NO_NEW_WEIGHTS
from sglang_speed.models.from_states import attentions_of
from sglang_speed.platforms.cpu import CpuPlatform
from sglang_speed.served import served
from sglang_speed.serving.memory import _require_computed_alone_in_fp8
from tests import host
from tests.catalogue import (
    CHUNKS_OF_17,
    FASTKV,
    FASTKV_WITH_MESSAGES,
    FP8_SETTINGS,
    MODELS,
    NUM_LAYERS,
    POP_WITH_ANCHORS,
    RETRACTED,
    THINNED,
    Bands,
)
from tests.inprocess.parity.expected import Ask, Expected, prompt, tokens
from tests.inprocess.parity.rounded_reference import RoundedExpected, Rounding
from tests.inprocess.parity.test_fp8_kv import workload
from tests.quantized import FORMATS, Format, kv_scales, quantize
from tests.scheduler_harness import running_scheduler
from tests.tiny_models import make_tiny_model

pytestmark = pytest.mark.skipif(host.IS_OLDEST, reason="quantized weights are refused there")

OTHER_MODELS = [
    ("fp8 blocks", "qwen3_moe"),
    ("fp8", "phi3"),
    ("compressed int4", "smollm3"),
    ("awq", "gemma3_text"),
    ("fp8 blocks", "deepseek_v3"),
]
LENGTHS = (1, 2, 17, 41, 90)

Made = Callable[[str, str, Bands], Expected]


class Quantized(Expected):
    """A quantized checkpoint, and the reference with what its weights stand for."""

    def __init__(self, directory: Path, bands: Bands, form: Format, model: str) -> None:
        super().__init__(directory / "plain", bands, model=model)
        plain, self.path = self.path, quantize(self.path, directory / "quantized", form)
        self.model = AutoModelForCausalLM.from_pretrained(plain).eval()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """made(format, model, bands)"""

    @cache
    def make(form: str, model: str, bands: Bands) -> Expected:
        return Quantized(tmp_path_factory.mktemp("quantized"), bands, FORMATS[form], model)

    return make


def require_exact(expected: Expected, **settings: Any) -> None:
    """Cold together and in chunks, with scores, then warm behind the answers, then retracted and cold again."""
    asks = [Ask(prompt(length, seed=length), 6) for length in LENGTHS] + [Ask(prompt(90, seed=90), scored_from=70)]
    with running_scheduler(expected.path, **CHUNKS_OF_17, **settings) as engine:
        cold = expected.answered(engine, asks)
        longer = [[*ask.prompt, *answer.output_ids, *tokens(3)] for ask, answer in zip(asks, cold, strict=True)]
        warm = expected.answered(engine, [Ask(one, 6) for one in longer])
        assert warm[-1].cached_tokens > 0
        engine.flush()
        expected.answered(engine, [Ask(longer[-1], 6)])


@pytest.mark.parametrize("form", [name for name, form in FORMATS.items() if form.kv is None])
def test_every_format_is_exact(made: Made, form: str) -> None:
    require_exact(made(form, "llama", Bands()))


@pytest.mark.parametrize("bands", [POP_WITH_ANCHORS, FASTKV, THINNED, FASTKV_WITH_MESSAGES], ids=str)
def test_every_policy_is_exact(made: Made, bands: Bands) -> None:
    require_exact(made("gptq", "llama", bands), **RETRACTED)


@pytest.mark.parametrize(("form", "model"), OTHER_MODELS)
def test_other_architectures_are_exact(made: Made, form: str, model: str) -> None:
    """With experts, with one matrix for queries, keys and values, run by transformers, tied, with latents."""
    require_exact(made(form, model, Bands()))


@contextmanager
def own_layers() -> Iterator[None]:
    """SGLang's own layers for AWQ, with its kernel in PyTorch."""
    kernel = "sglang.srt.hardware_backend.gpu.quantization.awq_kernels.awq_dequantize"
    dtypes = [torch.float32]
    with (
        mock.patch.object(CpuPlatform, "get_quantization_config", return_value=None),
        mock.patch("sglang_speed.platforms.cpu.quantized._dequantized", lambda weights, *_: weights),
        mock.patch(kernel, awq_dequantize_decomposition, create=True),
        mock.patch.object(AWQConfig, "get_supported_act_dtypes", return_value=dtypes),
    ):
        yield


@pytest.mark.parametrize("bands", [Bands(), POP_WITH_ANCHORS, FASTKV], ids=str)
def test_layers_that_stay_quantized_run_in_every_band(made: Made, bands: Bands) -> None:
    """Where keys and values are filled in, too, by a matrix of which nothing can be left out."""
    expected = made("awq", "llama", bands)
    with own_layers():
        require_exact(expected)
        with running_scheduler(expected.path) as engine:
            model = engine.scheduler.tp_worker.model_runner.model
            assert {type(layer.self_attn.qkv_proj.quant_method) for layer in model.model.layers} == {AWQLinearMethod}


def test_new_weights_are_refused_in_every_way(made: Made) -> None:
    expected, ask = made("awq", "llama", Bands()), Ask(prompt(40), 6)
    with running_scheduler(expected.path) as engine:
        runner = engine.scheduler.tp_worker.model_runner
        (said,) = {
            runner.weight_updater.update_weights_from_tensor([], load_format) for load_format in (None, "direct")
        }
        assert said == (False, f"sglang_speed: {NO_NEW_WEIGHTS}")
        with pytest.raises(ConfigError, match="new weights for a quantized model"):
            runner.model.load_weights([])
        expected.answered(engine, [ask])


# Scales of the KV cache


class Scaled(RoundedExpected):
    """A checkpoint with scales of its KV cache, and the reference that rounds by them."""

    def __init__(self, directory: Path, bands: Bands) -> None:
        super().__init__(directory / "plain", bands, Rounding(torch.float8_e4m3fn, scales=kv_scales_of))
        form, attention = FORMATS["modelopt fp8"], self.model.config._attn_implementation
        plain, self.path = self.path, quantize(self.path, directory / "quantized", form)
        self.model = AutoModelForCausalLM.from_pretrained(plain).eval()
        self.model.config._attn_implementation = attention


def kv_scales_of(layer: int) -> tuple[float, float]:
    key, value = kv_scales(layer).values()
    return float(key), float(value)


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory) -> Scaled:
    return Scaled(tmp_path_factory.mktemp("scaled"), Bands(6, 1, 3))


@pytest.mark.parametrize("name", ["defaults", "pages, chunks of 16", "retracted"])
def test_keys_and_values_are_divided_by_the_scales_of_their_layer(scaled: Scaled, name: str) -> None:
    with running_scheduler(scaled.path, **FP8_SETTINGS[name]) as engine:
        model = served()
        assert model is not None
        assert model.kv_pool.dtype == model.deep_bands[0].allocator.get_kvcache().dtype == torch.float8_e4m3fn
        scaled.answered(engine, workload())
        scaled.answered(engine, workload())


@pytest.mark.parametrize("layers", [range(6), range(6, NUM_LAYERS)], ids=["deep", "shallow"])
def test_a_band_without_its_scales_would_be_noticed(scaled: Scaled, layers: range) -> None:
    """The check of this comparison."""
    rounding = scaled.attention.rounding
    without = [(1.0, 1.0) if layer in layers else kv_scales_of(layer) for layer in range(NUM_LAYERS)]
    scaled.attention.rounding = replace(rounding, scales=without.__getitem__)
    try:
        with (
            running_scheduler(scaled.path) as engine,
            pytest.raises(AssertionError, match=r"margin|differ by|only \d+%"),
        ):
            scaled.answered(engine, workload())
    finally:
        scaled.attention.rounding = rounding


def test_a_cache_in_the_dtype_of_the_model_needs_no_scales(made: Made) -> None:
    expected = made("modelopt fp8", "llama", Bands())
    with running_scheduler(expected.path, kv_cache_dtype="bfloat16") as engine:
        attentions = attentions_of(engine.scheduler.tp_worker.model_runner.model)
        assert {layer.k_scale_float for layer in attentions} == {None}


@pytest.mark.parametrize("bands", [POP_WITH_ANCHORS, FASTKV], ids=str)
def test_an_fp8_cache_of_the_checkpoint_is_refused_where_more_lies_in_it(made: Made, bands: Bands) -> None:
    expected = made("modelopt fp8", "llama", bands)
    with pytest.raises(ConfigError, match=r"fp8_e4m3, which the checkpoint says, .* add --kv-cache-dtype bfloat16"):
        HOST.resolve(model_path=str(expected.path))
    with pytest.raises(ConfigError, match=r"a KV cache of torch\.float8_e4m3fn is not supported with policy"):
        _require_computed_alone_in_fp8(SpeedConfig.from_dict(bands.speed, NUM_LAYERS), torch.float8_e4m3fn)


# Tools


@pytest.mark.parametrize("form", FORMATS)
def test_a_quantized_checkpoint_is_linked_as_it_is(form: str, tmp_path: Path) -> None:
    source = make_tiny_model(tmp_path / "plain", **MODELS["llama"])
    quantized = quantize(source, tmp_path / "quantized", FORMATS[form])
    converted = convert(quantized, tmp_path / "speed", prefill_layers=6)
    assert converted.placement == "hard link"
    found = describe(converted.path)
    plain = describe(convert(source, tmp_path / "unquantized", prefill_layers=6).path)
    assert found.weights.quantization is not None
    assert abs(found.weights.num_parameters - plain.weights.num_parameters) < 0.001 * plain.weights.num_parameters
    assert found.weights.num_bytes < 0.7 * plain.weights.num_bytes
    assert found.shape.weight_dtype_bytes == found.weights.num_bytes / found.weights.num_parameters
    assert found.to_dict()["weights"]["quantization"] == found.weights.quantization.name
    HOST.resolve(model_path=str(converted.path))
