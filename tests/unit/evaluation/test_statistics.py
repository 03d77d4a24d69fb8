"""Estimates and their errors, against what can be worked out otherwise."""

from __future__ import annotations

import math
import random
from statistics import mean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_speed.lab.common.statistics import Estimate, difference, ratio, sums

VALUES = st.lists(st.floats(-100, 100), min_size=2, max_size=30)


@given(VALUES)
def test_without_weights_it_is_the_mean_and_its_error(values: list[float]) -> None:
    estimate = ratio(values)
    assert estimate.value == pytest.approx(mean(values), abs=1e-9)
    assert estimate.stderr == pytest.approx(stdev(values) / math.sqrt(len(values)), abs=1e-6)


@given(VALUES)
def test_a_model_does_not_differ_from_itself(values: list[float]) -> None:
    assert difference(values, values) == ratio([0.0] * len(values))


def test_a_single_item_says_nothing_about_its_error() -> None:
    assert ratio([3.0]).stderr is None


def test_a_mean_per_token_weighs_responses_by_their_length() -> None:
    assert ratio([2.0, 9.0], [1, 10]).value == 1.0
    assert ratio([2.0, 4.0, 6.0], [1, 2, 3]).stderr == 0.0


def test_the_upper_end_is_two_errors_above_where_the_error_is_known() -> None:
    assert Estimate(1.0, 0.25).upper == 1.5
    assert Estimate(1.0, None).upper == 1.0


def test_pairing_removes_what_items_have_in_common() -> None:
    drawn = random.Random(0)
    hard = [drawn.choice([0.0, 1.0]) for _ in range(200)]
    worse = [value * (index % 10 != 0) for index, value in enumerate(hard)]
    paired = difference(worse, hard)
    assert paired.value == pytest.approx(ratio(worse).value - ratio(hard).value)
    assert paired.stderr is not None
    assert paired.stderr < 0.5 * (ratio(worse).stderr or 0)


def test_the_error_of_a_ratio_is_what_many_samples_show() -> None:
    """Tokens of one response hang together: the error is much larger than that of as many independent tokens."""
    drawn = random.Random(1)
    found, errors = [], []
    for _ in range(400):
        lengths = [drawn.randint(5, 60) for _ in range(50)]
        sums = [drawn.gauss(-2.0, 0.5) * length for length in lengths]
        estimate = ratio(sums, [float(length) for length in lengths])
        found.append(estimate.value)
        errors.append(estimate.stderr or 0)
    assert mean(found) == pytest.approx(-2.0, abs=0.02)
    assert mean(errors) == pytest.approx(stdev(found), rel=0.1)


def test_items_drawn_together_are_as_sure_as_many_samples_show() -> None:
    """Eight items share what makes them hard; taken as independent, they would seem surer than they are."""
    drawn = random.Random(2)
    found, errors, naive = [], [], []
    for _ in range(400):
        values = [float(drawn.random() < share) for share in (drawn.random() for _ in range(12)) for _ in range(8)]
        found.append(ratio(values).value)
        errors.append(ratio(values, drawn_together=8).stderr or 0)
        naive.append(ratio(values).stderr or 0)
    assert mean(errors) == pytest.approx(stdev(found), rel=0.1)
    assert mean(naive) < 0.7 * stdev(found)


def test_neighbours_are_summed_and_the_last_ones_may_be_fewer() -> None:
    assert sums([1, 2, 3, 4, 5], 2) == [3, 7, 5]
    assert ratio([1, 2, 3, 4, 5], drawn_together=2).value == 3
    assert ratio([1, 2], drawn_together=8).stderr is None
