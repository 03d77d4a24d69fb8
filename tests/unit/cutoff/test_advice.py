"""The recommendation, and the errors of the means on which it stands."""

from __future__ import annotations

import pytest

from sglang_speed.lab.common.statistics import Estimate
from sglang_speed.lab.cutoff.advice import Advice, Usable, advise, best, lowest_within


def divergences(by_cutoff: dict[int, float], error: float = 0.0) -> dict[int, Estimate]:
    return {cutoff: Estimate(value, error) for cutoff, value in by_cutoff.items()}


SMOOTH = {0: 1.0, 4: 0.9, 5: 0.6, 6: 0.3, 7: 0.05, 8: 0.0}


def test_the_lowest_cutoff_below_the_tolerance_and_three_quarters_with_training() -> None:
    assert advise([divergences(SMOOTH)], 8, max_kl=0.1) == Advice(untrained=7, trained=6)


def test_the_error_counts_against_a_cutoff() -> None:
    assert advise([divergences(SMOOTH, error=0.02)], 8, max_kl=0.1).untrained == 7
    assert advise([divergences(SMOOTH, error=0.03)], 8, max_kl=0.1).untrained == 8


def test_a_low_cutoff_below_a_bad_one_is_luck_and_is_not_taken() -> None:
    assert advise([divergences({**SMOOTH, 5: 0.01})], 8, max_kl=0.1).untrained == 7


def test_no_context_is_never_recommended() -> None:
    assert advise([divergences(dict.fromkeys(SMOOTH, 0.0))], 8, max_kl=0.1).untrained == 4


def test_three_quarters_are_not_taken_where_half_of_the_context_is_lost() -> None:
    lost = {**SMOOTH, 6: 0.51}
    assert advise([divergences(lost)], 8, max_kl=0.1).trained is None
    assert advise([divergences({**lost, 7: 0.2})], 8, max_kl=0.1) == Advice(untrained=8, trained=7)


def test_nothing_below_three_quarters_is_advised_for_training() -> None:
    usable = {**SMOOTH, 5: 0.05, 6: 0.05}
    assert advise([divergences(usable)], 8, max_kl=0.1) == Advice(untrained=5, trained=None)


def test_a_cutoff_that_was_not_measured_is_not_recommended() -> None:
    assert advise([divergences({0: 1.0, 7: 0.2, 8: 0.0})], 8, max_kl=0.1) == Advice(untrained=8, trained=7)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ({7: 0.2}, Advice(untrained=8, trained=6)),
        ({6: 0.6, 7: 0.2}, Advice(untrained=8, trained=7)),
        ({6: 0.6}, Advice(untrained=7, trained=None)),
    ],
)
def test_every_kind_of_request_must_bear_a_cutoff(kind: dict[int, float], expected: Advice) -> None:
    assert advise([divergences(SMOOTH), divergences({**SMOOTH, **kind})], 8, max_kl=0.1) == expected


def test_a_series_is_usable_down_to_the_first_setting_that_is_not() -> None:
    def lowest(*kl: float) -> int | None:
        return lowest_within([[Estimate(0.0, 0.0), Estimate(value, 0.01)] for value in kl], max_kl=0.1)

    assert [lowest(0.01, 0.08), lowest(0.01, 0.09, 0.01), lowest(0.2, 0.01), lowest()] == [1, 0, None, None]


def test_of_usable_settings_the_one_that_gains_most_is_best_and_of_equals_the_closest() -> None:
    pop = Usable("pop", at_rest=1.0, ttft=1.4, divergence=0.01)
    close, far = (Usable(name, at_rest=1.3, ttft=1.2, divergence=kl) for name, kl in (("close", 0.02), ("far", 0.03)))
    usable = [far, pop, close]
    assert (best(usable, "at_rest"), best(usable, "ttft")) == (close, pop)
    assert best([pop], "at_rest") is None, "it gains nothing"
