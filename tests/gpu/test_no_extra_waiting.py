"""On a GPU: decode steps with depth bands wait for the device no more often than those of the stock model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from tests.catalogue import MODELS
from tests.gpu.closeness import SHAPE
from tests.gpu.conftest import Checkpoints
from tests.inprocess.parity.expected import prompt
from tests.scheduler_harness import SchedulerHarness, running_scheduler
from tests.tiny_models import make_tiny_model

BATCH_SIZE = 4
FEW, MANY = 16, 80
"""New tokens: what a run of the longer waits more often is the decode steps' doing."""


@contextmanager
def waits_counted() -> Iterator[list[str]]:
    """Operators after which PyTorch waited for the device, in the order of their calls."""
    found: list[str] = []
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield found
    finally:
        torch.cuda.set_sync_debug_mode("default")
    found += [f"{each.filename}:{each.lineno}" for each in caught if "synchroniz" in str(each.message)]


def waits(engine: SchedulerHarness, num_new: int, seed: int) -> list[str]:
    for index in range(BATCH_SIZE):
        engine.submit(prompt(70, seed=seed + index), num_new, sampling={"ignore_eos": True})
    with waits_counted() as found:
        engine.run()
    return found


def waits_of_decode_steps(path: Path, settings: dict[str, Any]) -> tuple[int, set[str]]:
    """How many more waits the longer answers take, and where all of them are."""
    with running_scheduler(path, is_checked=False, **settings) as engine:
        waits(engine, MANY, seed=0)  # whatever is compiled or cached at first use
        few, many = waits(engine, FEW, seed=10), waits(engine, MANY, seed=20)
    return len(many) - len(few), set(many)


def test_decode_steps_wait_no_more_often_than_stock(
    settings: dict[str, Any], checkpoints: Checkpoints, model: str, tmp_path: Path
) -> None:
    stock, _ = waits_of_decode_steps(make_tiny_model(tmp_path, **{**MODELS[model], **SHAPE}), settings)
    ours, places = waits_of_decode_steps(checkpoints().path, settings)
    assert ours <= stock, f"{ours} waits in {MANY - FEW} steps instead of {stock}, among {sorted(places)}"
