"""What lm-eval's contexts become where they are too long for the server."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from sglang_speed.errors import ConfigError

pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")


@pytest.fixture
def fitting() -> Any:
    """`_fitting` of a model with room for five tokens; no server is asked."""
    from sglang_speed.lab.evaluation.harness import SpeedCompletions

    model = object.__new__(SpeedCompletions)
    model.max_length = 5
    return model._fitting


def test_a_context_that_fits_is_kept(fitting: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fitting([1, 2, 3], 2) == [1, 2, 3]


def test_a_longer_one_loses_its_beginning_and_that_is_said(fitting: Any) -> None:
    with pytest.warns(
        UserWarning, match=r"exceed, with their continuation, 5 tokens lose their beginning and with it BoS"
    ):
        assert fitting([1, 2, 3, 4], 2) == [2, 3, 4]


@pytest.mark.parametrize("num_scored", [5, 8])
def test_a_continuation_that_leaves_no_room_is_refused(fitting: Any, num_scored: int) -> None:
    with pytest.raises(ConfigError, match=rf"5 tokens leave no room .* continuation of {num_scored}: raise max_length"):
        fitting([1, 2, 3, 4, 6, 7], num_scored)
