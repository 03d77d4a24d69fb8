"""What the user typed, completed before SGLang resolves it: the name `speed-llama`, and the operator's settings, which
travel with the arguments to every process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sglang_speed.serving.fields import SETTINGS
from sglang_speed.serving.settings import Settings


def complete(args: Any) -> None:
    """Hook before ServerArgs.__post_init__."""
    SETTINGS.set(args, Settings.from_environment())
    _resolve_model_path(args)


def _resolve_model_path(args: Any) -> None:
    """An existing path wins; `speed-llama` is the default model."""
    if Path(args.model_path).exists():
        return
    from sglang_speed.checkpoints.default_model import resolve_model

    resolved = resolve_model(args.model_path)
    if resolved == args.model_path:
        return
    if args.served_model_name is None:
        args.served_model_name = args.model_path
    if args.tokenizer_path == args.model_path:
        args.tokenizer_path = resolved
    args.model_path = resolved
