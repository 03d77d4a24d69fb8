"""Measure the two rates that the ceilings stand on: a large copy, and a large matrix product of random numbers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch
import typer
from ceilings import Rates
from contenders import PROFILES

REPEATS = 9


def measure_rates(device: str, copy_bytes: int, matrix_size: int) -> Rates:
    """Medians. Copies count what is read and what is written; zeros would be faster than what a model multiplies."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    source = torch.empty(copy_bytes, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    bandwidth = 2 * copy_bytes / seconds_of(partial(target.copy_, source), device)
    left, right = (torch.randn(matrix_size, matrix_size, dtype=dtype, device=device) for _ in range(2))
    flops = 2 * matrix_size**3 / seconds_of(partial(torch.matmul, left, right), device)
    return Rates(flops, bandwidth)


def seconds_of(run: Callable[[], object], device: str) -> float:
    """Median duration after three warm-ups."""
    durations = []
    for _ in range(3 + REPEATS):
        start = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        durations.append(time.perf_counter() - start)
    return median(durations[3:])


def main(profile_name: str, out: Path) -> None:
    """In a process of its own, which gives the device's memory back as it ends."""
    profile = PROFILES[profile_name]
    rates = measure_rates(profile.device, profile.copy_bytes, profile.matrix_size)
    memory = torch.cuda.get_device_properties(0).total_memory if profile.device == "cuda" else 0
    out.write_text(json.dumps({"flops": rates.flops, "bandwidth": rates.bandwidth, "memory": memory}), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
