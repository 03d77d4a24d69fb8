"""SGLang's Triton backend in both bands, its kernels in Triton's interpreter: the answers are the reference's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sglang.srt.layers.attention.triton_backend import TritonAttnBackend

from tests.catalogue import Bands
from tests.inprocess.parity.conftest import Checkpoints
from tests.inprocess.parity.expected import Ask, forget_anchors, prompt
from tests.inprocess.parity.triton_interpreter import triton_interpreted
from tests.scheduler_harness import running_scheduler


@pytest.fixture(autouse=True)
def interpreter() -> Iterator[None]:
    with triton_interpreted():
        yield


@pytest.mark.parametrize(
    ("bands", "cached"),
    [
        (Bands(5, 2, 2), 16),
        (Bands(5, 2, 2, "pop"), 16),
        (Bands(5, 2, 2, "fastkv", select_ratio=0.8), 10),
        (Bands(5, 2, 2, "fastkv", select_ratio=0.8, select_window=3, kv_keep=0.4), 15),
    ],
    ids=str,
)
def test_cold_warm_and_chunked_answers_are_the_references(checkpoints: Checkpoints, bands: Bands, cached: int) -> None:
    """A prompt of two chunks beside a short one with a scored span, then a hit. Two anchors, tails of two."""
    expected = checkpoints(bands)
    with running_scheduler(expected.path, chunked_prefill_size=16) as engine:
        backend = engine.scheduler.tp_worker.model_runner.attn_backend
        assert set(map(type, backend.backends)) == {TritonAttnBackend}
        expected.answered(engine, [Ask(prompt(18), 2), Ask(prompt(7, seed=1), 2, scored_from=4)])
        forget_anchors()
        (warm,) = expected.answered(engine, [Ask(prompt(18), 2)])
        assert warm.cached_tokens == cached
