"""From the name that the user typed to a checkpoint."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from sglang_speed.checkpoints import default_model
from sglang_speed.host.adapter import HOST
from sglang_speed.serving.arguments import complete
from sglang_speed.serving.settings import Settings
from tests.host import typed_arguments


def test_speed_llama_means_the_default_model_and_is_still_served_by_that_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default_model, "resolve_model", lambda name: "/cache/default")
    args = typed_arguments("speed-llama")
    complete(args)
    args = HOST.resolved(args)
    assert (args.model_path, args.served_model_name) == ("/cache/default", "speed-llama")


def test_settings_are_read_once_and_travel_with_the_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scheduler processes get the arguments; what their environment says then does not matter."""
    monkeypatch.setenv("SGLANG_SPEED_DEEP_TOKENS", "4096")
    args = typed_arguments("meta-llama/Llama-3.1-8B")
    complete(args)
    monkeypatch.delenv("SGLANG_SPEED_DEEP_TOKENS")
    assert pickle.loads(pickle.dumps(args))._speed_settings == Settings(deep_tokens=4096)


def test_an_existing_path_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "speed-llama").mkdir()
    args = typed_arguments("speed-llama")
    complete(args)
    args = HOST.resolved(args)
    assert (args.model_path, args.served_model_name) == ("speed-llama", None)


def test_any_other_name_is_left_to_sglang() -> None:
    args = typed_arguments("meta-llama/Llama-3.1-8B")
    complete(args)
    assert HOST.resolved(args).model_path == "meta-llama/Llama-3.1-8B"
