"""The tolerance of the GPU tests with an fp8 KV cache, without a GPU, on FlashInfer's stand-in."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.catalogue import BACKENDS
from tests.gpu.float16_fp8 import SETTINGS, Float16Expected
from tests.inprocess.parity.flashinfer_standin import flashinfer_standin
from tests.inprocess.parity.rounded_reference import workload_of_one_chunk
from tests.scheduler_harness import running_scheduler


def test_float16_answers_are_close_enough_and_those_of_other_bands_are_not(tmp_path: Path) -> None:
    """With the coarser of the two dtypes."""
    kv_dtype, rounds = "fp8_e5m2", BACKENDS["flashinfer"].rounds
    right = Float16Expected(tmp_path / "right", kv_dtype, {}, rounds, head_dim=16)
    wrong = Float16Expected(tmp_path / "wrong", kv_dtype, {"anchor_tokens": 0}, rounds, head_dim=16)
    with flashinfer_standin(), running_scheduler(right.path, kv_cache_dtype=kv_dtype, **SETTINGS) as engine:
        right.answered_cold_and_warm(engine)
        assert right.worst < 0.6 * right.tolerance, "the tolerance leaves room for other orders of summation"
        with pytest.raises(AssertionError, match=r"instead of|differ by"):
            wrong.answered(engine, workload_of_one_chunk(ending=20))
