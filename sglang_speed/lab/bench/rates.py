"""The two rates that the ceilings stand on, measured: a large copy, and a large matrix product of random numbers."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch

from sglang_speed.method.cost import Rates

REPEATS = 9
WARM_UPS = 3


def measure_rates(device: str, copy_bytes: int, matrix_size: int, dtype: torch.dtype = torch.bfloat16) -> Rates:
    """Medians. Copies count what is read and what is written; zeros would be faster than what a model multiplies."""
    source = torch.empty(copy_bytes, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    bandwidth = 2 * copy_bytes / seconds_of(partial(target.copy_, source), device)
    left, right = (torch.randn(matrix_size, matrix_size, device=device).to(dtype) for _ in range(2))
    flops = 2 * matrix_size**3 / seconds_of(partial(torch.matmul, left, right), device)
    del source, target, left, right
    if device == "cuda":
        torch.cuda.empty_cache()  # the servers want the memory
    return Rates(flops, bandwidth)


def seconds_of(run: Callable[[], object], device: str) -> float:
    """Median duration after the warm-ups."""
    durations = []
    for _ in range(WARM_UPS + REPEATS):
        start = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        durations.append(time.perf_counter() - start)
    return median(durations[WARM_UPS:])
