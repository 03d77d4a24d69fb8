"""On a GPU: what the server answers is what the reference says, by every backend, eagerly and with decode graphs."""

from __future__ import annotations

from typing import Any

import pytest

from tests.catalogue import GPU_SETTINGS
from tests.gpu.closeness import require_agreement
from tests.gpu.conftest import Checkpoints
from tests.gpu.workload import Conversation
from tests.scheduler_harness import SchedulerHarness, running_scheduler

SHAPES = {
    "8 query heads share keys": ("bfloat16", {"num_kv_heads": 1}),
    "4 share": ("bfloat16", {"num_kv_heads": 2}),
    "2 share": ("bfloat16", {"num_kv_heads": 4}),
    "none shared": ("bfloat16", {"num_kv_heads": 8}),
    "heads of 64": ("bfloat16", {"head_dim": 64}),
    "heads of 64, none shared": ("bfloat16", {"head_dim": 64, "num_kv_heads": 8}),
    "float16": ("float16", {}),
    "float16, none shared": ("float16", {"num_kv_heads": 8}),
}


def require_backends(engine: SchedulerHarness, name: str, graphs: str) -> None:
    """Both bands have the backend that was asked for, and decode graphs exist where they were."""
    runner = engine.scheduler.tp_worker.model_runner
    for band in runner.attn_backend.backends:
        assert name in type(band).__name__.lower(), type(band)
    has_graphs = runner.decode_cuda_graph_runner is not None
    assert has_graphs == (graphs == "graphs"), runner.decode_cuda_graph_runner


@pytest.mark.parametrize("change", GPU_SETTINGS)
def test_cold_warm_chunked_and_mixed_answers_are_the_references(
    settings: dict[str, Any], backend: str, graphs: str, change: str, checkpoints: Checkpoints
) -> None:
    with running_scheduler(checkpoints().path, **{**settings, **GPU_SETTINGS[change]}) as engine:
        require_backends(engine, backend, graphs)
        talk = Conversation(checkpoints(), engine)
        talk.mixed()
        warm = talk.mixed()
        talk.turns()
        require_agreement(talk.checked)
        assert (max(answer.cached_tokens for answer in warm) > 64) == (change != "no cache")


@pytest.mark.parametrize("shape", SHAPES)
def test_answers_are_the_references_for_every_shape(
    settings: dict[str, Any], shape: str, checkpoints: Checkpoints
) -> None:
    dtype, sizes = SHAPES[shape]
    rounded = checkpoints(dtype, **sizes)
    with running_scheduler(rounded.path, **settings | {"dtype": dtype}) as engine:
        talk = Conversation(rounded, engine)
        talk.mixed()
        talk.turns(2)
        require_agreement(talk.checked)


def test_all_layers_in_the_shallow_band_are_the_stock_model(settings: dict[str, Any], checkpoints: Checkpoints) -> None:
    rounded = checkpoints(prefill_layers=8)
    with running_scheduler(rounded.path, **settings) as engine:
        talk = Conversation(rounded, engine)
        talk.mixed()
        talk.turns(2)
        require_agreement(talk.checked)


def test_a_small_deep_band_retracts_and_stays_exact(settings: dict[str, Any], checkpoints: Checkpoints) -> None:
    with running_scheduler(checkpoints().path, deep_tokens=80, **settings) as engine:
        talk = Conversation(checkpoints(), engine)
        talk.mixed()
        require_agreement(talk.checked)
