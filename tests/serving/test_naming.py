"""From the name that the user typed to a checkpoint."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from sglang_speed.checkpoints import default_model
from sglang_speed.serving.naming import resolve_model_path


def server_args(model: str) -> SimpleNamespace:
    return SimpleNamespace(model_path=model, tokenizer_path=None, served_model_name=None)


def test_speed_llama_means_the_default_model_and_is_still_served_by_that_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default_model, "resolve_model", lambda name: "/cache/default")
    args = server_args("speed-llama")
    resolve_model_path(args)
    assert (args.model_path, args.served_model_name) == ("/cache/default", "speed-llama")


def test_an_existing_path_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "speed-llama").mkdir()
    args = server_args("speed-llama")
    resolve_model_path(args)
    assert (args.model_path, args.served_model_name) == ("speed-llama", None)


def test_any_other_name_is_left_to_sglang() -> None:
    args = server_args("meta-llama/Llama-3.1-8B")
    resolve_model_path(args)
    assert args.model_path == "meta-llama/Llama-3.1-8B"
