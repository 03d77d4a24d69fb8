"""From the name that the user typed to a checkpoint, and what SPEED leaves out by default."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest

from sglang_speed.checkpoints import default_model
from sglang_speed.serving.arguments import complete
from sglang_speed.serving.settings import Settings


def server_args(model: str) -> SimpleNamespace:
    return SimpleNamespace(
        model_path=model, tokenizer_path=None, served_model_name=None, disable_prefill_cuda_graph=False
    )


def test_speed_llama_means_the_default_model_and_is_still_served_by_that_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default_model, "resolve_model", lambda name: "/cache/default")
    args = server_args("speed-llama")
    complete(args)
    assert (args.model_path, args.served_model_name) == ("/cache/default", "speed-llama")


def test_settings_are_read_once_and_travel_with_the_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scheduler processes get the arguments; what their environment says then does not matter."""
    monkeypatch.setenv("SGLANG_SPEED_DEEP_TOKENS", "4096")
    args = server_args("meta-llama/Llama-3.1-8B")
    complete(args)
    monkeypatch.delenv("SGLANG_SPEED_DEEP_TOKENS")
    assert pickle.loads(pickle.dumps(args)).speed_settings == Settings(deep_tokens=4096)


def test_an_existing_path_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "speed-llama").mkdir()
    args = server_args("speed-llama")
    complete(args)
    assert (args.model_path, args.served_model_name) == ("speed-llama", None)


def test_any_other_name_is_left_to_sglang() -> None:
    args = server_args("meta-llama/Llama-3.1-8B")
    complete(args)
    assert args.model_path == "meta-llama/Llama-3.1-8B"


@pytest.mark.parametrize(("prefill_layers", "left_out"), [(24, True), (30, False)])
def test_prefill_graphs_are_left_out_where_prompts_are_shallow(
    tmp_path: Path, prefill_layers: int, left_out: bool
) -> None:
    speed = {"prefill_layers": prefill_layers, "anchor_tokens": 1, "tail_tokens": 16}
    config = {"model_type": "speed_llama", "num_hidden_layers": 30, "speed": speed}
    (tmp_path / "config.json").write_text(json.dumps(config))
    args = server_args(str(tmp_path))
    complete(args)
    assert args.disable_prefill_cuda_graph == left_out


def test_other_models_keep_their_prefill_graphs(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 30}))
    args = server_args(str(tmp_path))
    complete(args)
    assert not args.disable_prefill_cuda_graph
