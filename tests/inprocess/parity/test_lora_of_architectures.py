"""Answers with an adapter are those of merged weights, whatever an architecture has for queries, keys and values, of
which a filled band takes a part."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from sglang_speed.errors import ConfigError
from tests import host
from tests.catalogue import CHUNKS_OF_17, FASTKV_TWICE, MODELS, POP_WITH_ANCHORS, THINNED, Bands
from tests.inprocess.parity.adapted import Adapted
from tests.inprocess.parity.conftest import Checkpoints
from tests.inprocess.parity.expected import Ask, prompt
from tests.scheduler_harness import running_scheduler
from tests.tiny_adapters import ALL_LINEAR, ATTENTION, TinyAdapter

pytestmark = pytest.mark.skipif(host.IS_OLDEST, reason="refused there, see test_refused_settings")

MLPS = {
    "phi3": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
    "glm4": (*ATTENTION, "gate_up_proj", "down_proj"),
    **dict.fromkeys(("starcoder2", "mixtral", "qwen2_moe", "qwen3_moe", "glm4_moe", "gpt_oss"), ATTENTION),
}
"""What adapters of a model have; the others all of a Llama's. Those of experts are refused."""
REFUSED_MODELS = ("deepseek_v3", "smollm3", "ernie4_5")
MODEL_CASES = [
    *((model, POP_WITH_ANCHORS) for model in MODELS if model not in REFUSED_MODELS),
    *product(("qwen2", "qwen3", "mistral", "gemma3_text", "qwen3_moe"), (FASTKV_TWICE, THINNED)),
]


@pytest.mark.parametrize(("model", "bands"), MODEL_CASES, ids=str)
def test_adapters_of_every_architecture_are_exact(
    checkpoints: Checkpoints, tmp_path: Path, model: str, bands: Bands
) -> None:
    adapter = TinyAdapter("own", MLPS.get(model, ALL_LINEAR))
    models = Adapted(checkpoints(bands, model), tmp_path, [adapter])
    asks = [(name, Ask(prompt(length, seed=length), 5)) for length in (3, 41) for name in (None, "own")]
    with running_scheduler(models.base.path, **models.settings(), **CHUNKS_OF_17) as engine:
        models.answered(engine, asks)
        models.answered(engine, asks)
    assert models.greedy("own", asks[-1][1]) != models.greedy(None, asks[-1][1])


def test_adapters_of_experts_are_refused(checkpoints: Checkpoints, tmp_path: Path) -> None:
    models = Adapted(checkpoints(Bands(), "qwen3_moe"), tmp_path, [TinyAdapter("attention", ATTENTION)])
    named = models.settings(lora_target_modules={"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}, max_lora_rank=4)
    with pytest.raises(ConfigError, match="adapters of experts are not proven"):
        running_scheduler(models.base.path, **named).__enter__()
