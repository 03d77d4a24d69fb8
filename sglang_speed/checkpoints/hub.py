"""The local directory of a checkpoint that is named by its hub id."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError


def checkpoint_directory(model_path: str, revision: str | None) -> Path:
    """Directory of a checkpoint; for a hub id, the one in the local cache that SGLang reads the configuration from."""
    path = Path(model_path)
    if path.exists():
        return path
    try:
        found = try_to_load_from_cache(model_path, "config.json", revision=revision)
    except HFValidationError:  # a URL
        return path
    return Path(found).parent if isinstance(found, str) else path
