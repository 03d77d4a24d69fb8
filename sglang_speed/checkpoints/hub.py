"""Checkpoints that are named by their id on a hub: which directory of the local cache they lie in."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError


def checkpoint_directory(model_path: str, revision: str | None) -> Path:
    """Where a checkpoint lies: for a hub id in the local cache, where SGLang has read the configuration."""
    path = Path(model_path)
    if path.exists():
        return path
    try:
        found = try_to_load_from_cache(model_path, "config.json", revision=revision)
    except HFValidationError:  # a URL
        return path
    return Path(found).parent if isinstance(found, str) else path
