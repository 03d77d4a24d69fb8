"""The operator's settings."""

from __future__ import annotations

import pytest

from sglang_speed.errors import ConfigError
from sglang_speed.serving.settings import Settings


def test_nothing_set_leaves_the_size_to_be_derived() -> None:
    assert Settings.from_environment({}).deep_tokens is None
    assert Settings.from_environment({"SGLANG_SPEED_DEEP_TOKENS": " "}).deep_tokens is None


def test_a_number_overrides_the_deep_pool() -> None:
    assert Settings.from_environment({"SGLANG_SPEED_DEEP_TOKENS": "4096"}).deep_tokens == 4096


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "4k", "1e3"])
def test_anything_else_is_refused_by_name(text: str) -> None:
    with pytest.raises(ConfigError, match="SGLANG_SPEED_DEEP_TOKENS="):
        Settings.from_environment({"SGLANG_SPEED_DEEP_TOKENS": text})
