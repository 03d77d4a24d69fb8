"""The reference of a float16 server with an fp8 KV cache: weights in float16, keys and values rounded to fp8.

In float16, not bfloat16: a key that lies near a step of fp8 falls on either side of it as the server rounds before, and
the noise of that is three times larger in bfloat16, as large as what other bands would say. The tolerance is tested
without a GPU (`tests/inprocess/parity/test_closeness_with_fp8.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from tests.catalogue import Bands
from tests.gpu.closeness import SHAPE, SPEED
from tests.inprocess.parity.rounded_reference import (
    DTYPES,
    HITS_OF_ONE_CHUNK,
    RoundedExpected,
    Rounding,
    workload_of_one_chunk,
)
from tests.scheduler_harness import SchedulerHarness

SETTINGS = {"dtype": "float16", "chunked_prefill_size": 512, "max_running_requests": 16}


class Float16Expected(RoundedExpected):
    """With the weights as a float16 server holds them. 0.17 is the worst difference seen; twice as much is allowed."""

    tolerance, min_exact = 0.33, 0.0

    def __init__(
        self, directory: Path, kv_dtype: str, speed: dict[str, int], rounds: Mapping[str, bool], **shape: int
    ) -> None:
        rounding = Rounding(DTYPES[kv_dtype], **rounds)
        super().__init__(directory, Bands(**SPEED | speed), rounding, **SHAPE | shape)
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.copy_(parameter.half())

    def answered_cold_and_warm(self, engine: SchedulerHarness) -> None:
        self.answered(engine, workload_of_one_chunk(ending=0))
        warm = self.answered(engine, workload_of_one_chunk(ending=10))
        assert [answer.cached_tokens for answer in warm] == HITS_OF_ONE_CHUNK
