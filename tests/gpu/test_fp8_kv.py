"""An fp8 KV cache in both bands: on a GPU against the reference that rounds what each backend rounds.

In float16, not bfloat16: a key that lies near a step of fp8 falls on either side of it as the server rounds before, and
the noise of that is three times larger in bfloat16, as large as what other bands would say. The tolerance is tested
without a GPU, on FlashInfer's stand-in.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sglang.srt.platforms import current_platform

from sglang_speed.platforms.cpu import CpuPlatform
from tests.gpu.closeness import SHAPE, SPEED
from tests.gpu.test_exactness import require_backends
from tests.parity.expected import Bands
from tests.parity.flashinfer_standin import flashinfer_standin
from tests.parity.rounded_reference import (
    DTYPES,
    HITS_OF_ONE_CHUNK,
    RoundedExpected,
    Rounding,
    workload_of_one_chunk,
)
from tests.scheduler_harness import SchedulerHarness, running_scheduler

SETTINGS = {"dtype": "float16", "chunked_prefill_size": 512, "max_running_requests": 16}
ROUNDS_MORE = {"flashinfer": {}, "triton": {"queries": True, "weights": True}}


class Float16Expected(RoundedExpected):
    """With the weights as a float16 server holds them. 0.17 is the worst difference seen; twice as much is allowed."""

    tolerance, min_exact = 0.33, 0.0

    def __init__(
        self, directory: Path, kv_dtype: str, speed: dict[str, int], more: dict[str, bool], **shape: int
    ) -> None:
        rounding = Rounding(DTYPES[kv_dtype], own_rows=False, **more)
        super().__init__(directory, Bands(**SPEED | speed), rounding, **SHAPE | shape)
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.copy_(parameter.half())

    def answered_cold_and_warm(self, engine: SchedulerHarness) -> None:
        self.answered(engine, workload_of_one_chunk(ending=0))
        warm = self.answered(engine, workload_of_one_chunk(ending=10))
        assert [answer.cached_tokens for answer in warm] == HITS_OF_ONE_CHUNK


@pytest.mark.gpu
@pytest.mark.parametrize("kv_dtype", DTYPES)
def test_answers_are_the_rounded_references(
    settings: dict[str, Any], backend: str, graphs: str, kv_dtype: str, tmp_path: Path
) -> None:
    expected = Float16Expected(tmp_path, kv_dtype, {}, ROUNDS_MORE[backend])
    with running_scheduler(expected.path, kv_cache_dtype=kv_dtype, **settings | SETTINGS) as engine:
        require_backends(engine, backend, graphs)
        expected.answered_cold_and_warm(engine)


def test_float16_answers_are_close_enough_and_those_of_other_bands_are_not(tmp_path: Path) -> None:
    """With the coarser of the two dtypes."""
    kv_dtype = "fp8_e5m2"
    if not isinstance(current_platform, CpuPlatform):
        pytest.skip("the CPU platform stands down where there is an accelerator")
    right = Float16Expected(tmp_path / "right", kv_dtype, {}, {}, head_dim=16)
    wrong = Float16Expected(tmp_path / "wrong", kv_dtype, {"anchor_tokens": 0}, {}, head_dim=16)
    with flashinfer_standin(), running_scheduler(right.path, kv_cache_dtype=kv_dtype, **SETTINGS) as engine:
        right.answered_cold_and_warm(engine)
        assert right.worst < 0.6 * right.tolerance, "the tolerance leaves room for other orders of summation"
        with pytest.raises(AssertionError, match=r"instead of|differ by"):
            wrong.answered(engine, workload_of_one_chunk(ending=20))
