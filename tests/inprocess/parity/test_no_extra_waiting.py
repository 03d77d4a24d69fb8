"""Steps with depth bands wait for the device no more often than those of the stock model, with overlap.

Counted on a CPU, by what would wait on a GPU; `tests/gpu` has the count of a real one. Of copies those to the CPU are
counted, not those to the device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from sglang_speed.kv_pool.deep_band import DeepBand
from tests.catalogue import FASTKV, THINNED, Bands
from tests.inprocess.parity.conftest import Checkpoints
from tests.inprocess.parity.device_waits import waits_counted
from tests.inprocess.parity.expected import Expected, prompt, tokens
from tests.scheduler_harness import SchedulerHarness, running_scheduler


def submit_all(engine: SchedulerHarness) -> None:
    """Two run for long; others join them, cold and from a hit, in chunks, alone and in pairs, and finish before."""
    asks = [(0, 30, 60), (0, 50, 60), (8, 40, 9), (20, 30, 5), (20, 50, 7), (35, 150, 6)]
    for when, prompt_len, num_new in asks:
        engine.submit(prompt(prompt_len), num_new, when=when, sampling={"ignore_eos": True})
    engine.submit([*prompt(40), *tokens(9)], 4, when=46, sampling={"ignore_eos": True})


def waits_by_turn(path: Path) -> list[list[str]]:
    """Of every turn but the last, in which the idle server checks its pools."""
    with running_scheduler(path, is_checked=False, chunked_prefill_size=64) as engine:
        assert engine.scheduler.enable_overlap
        submit_all(engine)
        with waits_counted(engine) as waits:
            answers = engine.run().values()
        assert max(answer.cached_tokens for answer in answers) >= 37, "some are admitted from a hit"
        return waits.turns[:-1]


@pytest.mark.parametrize("bands", [Bands(), FASTKV, THINNED], ids=str)
def test_no_step_waits_more_often_than_that_of_the_stock_model(
    checkpoints: Checkpoints, plain_checkpoint: Path, bands: Bands
) -> None:
    stock, speed = waits_by_turn(plain_checkpoint), waits_by_turn(checkpoints(bands).path)
    assert len(stock) > 60
    assert sum(map(bool, stock)) > 60, "SGLang itself waits for the tokens of each step"
    for turn, (theirs, ours) in enumerate(zip(stock, speed, strict=True)):
        assert not Counter(ours) - Counter(theirs), f"turn {turn}: {ours} instead of {theirs}"


def item(band: DeepBand) -> None:
    band.gap[1].item()


def as_bool(band: DeepBand) -> None:
    bool(band.gap[1] + band.gap[2] > 3)


def as_list(band: DeepBand) -> None:
    band.table[1, :4].tolist()


def as_array(band: DeepBand) -> None:
    np.asarray(band.gap)


def by_mask(band: DeepBand) -> None:
    band.gap[band.gap > 3]


def nonzero(band: DeepBand) -> None:
    band.gap.nonzero()


def copy_of_the_table(band: DeepBand) -> None:
    band.table[1].cpu()


def what_was_copied_to_the_device(band: DeepBand) -> None:
    int(torch.tensor([1, 2]).to(band.gap.device).sum())


def nothing_but_cpu_copies(band: DeepBand) -> None:
    band.gap_cpu[[1, 2]].sum().item()
    torch.tensor([1, 2]).tolist()


WAITS = (item, as_bool, as_list, as_array, by_mask, nonzero, copy_of_the_table, what_was_copied_to_the_device)


def test_one_more_wait_per_step_is_seen(expected: Expected) -> None:
    """Nine decode steps; the deep band takes its slots in each."""
    take_slots = DeepBand.extend_by_one

    def waits(added: Callable[[DeepBand], None]) -> int:
        def taking(band: DeepBand, *args: Any) -> None:
            added(band)
            take_slots(band, *args)

        engine.flush()
        engine.submit(prompt(30), 10, sampling={"ignore_eos": True})
        with mock.patch.object(DeepBand, "extend_by_one", taking), waits_counted(engine) as found:
            engine.run()
        return sum(map(len, found.turns))

    with running_scheduler(expected.path, is_checked=False, disable_overlap_schedule=True) as engine:
        usual = waits(lambda _: None)
        assert waits(nothing_but_cpu_copies) == usual
        assert {added.__name__: waits(added) - usual for added in WAITS} == {added.__name__: 9 for added in WAITS}
