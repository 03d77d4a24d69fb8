"""Measure the two rates behind the ceilings: a large copy, and a large matrix product of random numbers."""

from __future__ import annotations

import torch
from torch.utils.benchmark import Timer

from sglang_speed.method.cost import Rates

MIN_SECONDS = 0.5


def measure_rates(device: str, copy_bytes: int, matrix_size: int, dtype: torch.dtype = torch.bfloat16) -> Rates:
    """Median rates. A copy counts the bytes read and written. Numbers are random, since zeros multiply faster."""
    source = torch.empty(copy_bytes, dtype=torch.uint8, device=device).random_()
    bandwidth = 2 * copy_bytes / seconds_of("target.copy_(source)", source=source, target=torch.empty_like(source))
    left, right = (torch.randn(matrix_size, matrix_size, device=device).to(dtype) for _ in range(2))
    flops = 2 * matrix_size**3 / seconds_of("left @ right", left=left, right=right)
    del source, left, right
    if device == "cuda":
        torch.cuda.empty_cache()  # the servers need the memory
    return Rates(flops, bandwidth)


def seconds_of(statement: str, **tensors: torch.Tensor) -> float:
    """Median duration after a warm-up, on all threads; torch's timer waits for a GPU."""
    timer = Timer(statement, globals=tensors, num_threads=torch.get_num_threads())
    timer.timeit(1)  # the first call also loads kernels
    return timer.blocked_autorange(min_run_time=MIN_SECONDS).median
