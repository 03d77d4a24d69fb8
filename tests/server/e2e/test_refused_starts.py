"""Starts that must fail: the process ends, and the end of its log says why. Each test is a start of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.server.conftest import SERVER_FLAGS
from tests.server.e2e.test_refused_settings import copy_with
from tests.server.servers import ServerFailed, running_server

LEFT_OUT = {"SGLANG_PLUGINS": "another_plugin"}
UNKNOWN = ("No accelerator", "model type `speed_llama`")
"""What SGLang alone says on a machine without an accelerator, and on one with it."""


def failure(model: Path, *flags: str, env: Mapping[str, str] | None = None, **more: bool) -> str:
    """What a server that must not start leaves behind."""
    with pytest.raises(ServerFailed) as failed, running_server(model, *SERVER_FLAGS, *flags, env=env, **more):
        pass
    text = str(failed.value)
    assert "the server ended" in text, text
    return text


def test_without_the_plugin_a_speed_checkpoint_is_not_served(tiny_speed: Path) -> None:
    """Not as a plain Llama at full depth either: nobody else knows the model type."""
    text = failure(tiny_speed, env=LEFT_OUT, in_new_interpreter=True)
    assert any(reason in text for reason in UNKNOWN), text


def test_with_a_refused_flag_the_server_does_not_start(tiny_speed: Path) -> None:
    text = failure(tiny_speed, "--enable-torch-compile")
    assert "sglang_speed: --enable-torch-compile is not supported with a SPEED model" in text
    assert "the server ended with 1\n" in text
    assert "Traceback" not in text


def test_with_a_wrong_speed_object_the_server_does_not_start(tiny_speed: Path, tmp_path: Path) -> None:
    wrong: dict[str, Any] = {"prefill_layers": 9}
    assert "prefill_layers=9 is not between 1 and 8" in failure(copy_with(tiny_speed, tmp_path / "wrong", speed=wrong))


def test_with_too_small_a_deep_band_the_server_does_not_start(tiny_speed: Path) -> None:
    """Found out in the scheduler's process, which takes the others with it."""
    text = failure(tiny_speed, env={"SGLANG_SPEED_DEEP_TOKENS": "4"})
    assert "a deep band has room for 4 tokens, but one request needs 5" in text
    assert "the server ended with 1\n" in text, "not 137, as for a machine out of memory"
