"""What the user typed, completed before SGLang resolves it: the name `speed-llama`, and the operator's settings, which
travel with the arguments to every process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sglang_speed.checkpoints.hub import checkpoint_directory
from sglang_speed.config import is_speed_model, read_model_config
from sglang_speed.host.adapter import HOST
from sglang_speed.serving.fields import SETTINGS
from sglang_speed.serving.refusals import refuse_unsupported
from sglang_speed.serving.settings import Settings


def complete(args: Any) -> None:
    """Before SGLang resolves anything."""
    SETTINGS.set(args, Settings.from_environment())
    _resolve_model_path(args)
    _take_one_pool(args)


def _take_one_pool(args: Any) -> None:
    """One KV pool for layers with and without a sliding window, where stock SGLang has two of different lengths."""
    typed = HOST.resolved(args)
    config = read_model_config(checkpoint_directory(typed.model_path, typed.revision)) or {}
    if is_speed_model(config) and not typed.disable_hybrid_swa_memory:
        HOST.change(args, disable_hybrid_swa_memory=True)


def _resolve_model_path(args: Any) -> None:
    """An existing path wins; `speed-llama` is the default model."""
    typed = HOST.resolved(args)
    if Path(typed.model_path).exists():
        return
    from sglang_speed.checkpoints.default_model import resolve_model

    resolved = resolve_model(typed.model_path)
    if resolved == typed.model_path:
        return
    changes = {"model_path": resolved}
    if typed.served_model_name is None:
        changes["served_model_name"] = typed.model_path
    if typed.tokenizer_path == typed.model_path:
        changes["tokenizer_path"] = resolved
    HOST.change(args, **changes)


def refuse_checked(_: Any, args: Any) -> None:
    """Hook after ServerArgs.check_server_args, with which SGLang 0.5.17 ends."""
    refuse_unsupported(args)
