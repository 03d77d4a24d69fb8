"""The name `speed-llama`: from what the user typed to a checkpoint on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def resolve_model_path(args: Any) -> None:
    """Hook before ServerArgs.__post_init__: an existing path wins; `speed-llama` is the default model."""
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
