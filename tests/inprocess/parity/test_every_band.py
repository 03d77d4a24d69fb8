"""Served greedy tokens are the reference's, whatever the cutoff, the anchors, the tail and the prompt's length."""

from __future__ import annotations

import pytest

from tests.catalogue import ALL_BANDS, DEEP_BANDS, FOUR_ANCHORS, LONG_TAIL, STOCK_BANDS, Bands
from tests.inprocess.parity.conftest import Checkpoints
from tests.inprocess.parity.expected import Ask, prompt, tokens
from tests.scheduler_harness import running_scheduler

LENGTHS = (1, 2, 3, 4, 5, 6, 15, 16, 17, 18, 41, 90)
"""Shorter than a tail of 16 and longer, shorter than four anchors and longer."""


@pytest.mark.parametrize("bands", ALL_BANDS, ids=str)
def test_cold_and_warm_answers_are_the_references(checkpoints: Checkpoints, bands: Bands) -> None:
    """Warm: the same prompts again, then what follows them, with part of the answer in the prefix."""
    expected = checkpoints(bands)
    prompts = [prompt(length, seed=length) for length in LENGTHS]
    with running_scheduler(expected.path) as engine:
        cold = expected.answered(engine, [Ask(one, 6) for one in prompts])
        expected.answered(engine, [Ask(one, 6) for one in prompts])
        longer = [one + answer.output_ids + tokens(3) for one, answer in zip(prompts, cold, strict=True)]
        warm = expected.answered(engine, [Ask(one, 6) for one in longer])
    assert any(answer.cached_tokens for answer in warm)


@pytest.mark.parametrize("bands", [LONG_TAIL, FOUR_ANCHORS], ids=str)
def test_long_prompts_are_exact_alone(checkpoints: Checkpoints, bands: Bands) -> None:
    expected = checkpoints(bands)
    with running_scheduler(expected.path) as engine:
        for length in (127, 300, 513):
            expected.answered(engine, [Ask(prompt(length), 12)])


def test_bands_change_what_is_generated(checkpoints: Checkpoints) -> None:
    """Without this the comparisons of this folder could hold by accident."""
    questions = [prompt(41), prompt(90)]
    all_bands = [*DEEP_BANDS, STOCK_BANDS[0]]
    outputs = {tuple(tuple(checkpoints(bands).greedy(one, 24)) for one in questions) for bands in all_bands}
    assert len(outputs) == len(all_bands)
