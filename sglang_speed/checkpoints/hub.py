"""The local directory of a checkpoint that is named by its hub id."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from sglang_speed.checkpoints.default_model import resolve_model


def local_checkpoint(name: str) -> Path:
    """What a user calls a model: a directory, `speed-llama`, or the hub id of one that is in the local cache.

    A name that is none of these is given back as a path. ConfigError where the default model cannot be built.
    """
    return checkpoint_directory(resolve_model(name), None)


def checkpoint_directory(model_path: str, revision: str | None) -> Path:
    """Directory of a checkpoint; for a hub id, the one in the local cache that SGLang reads the configuration from."""
    path = Path(model_path)
    try:
        if path.exists():
            return path
        found = try_to_load_from_cache(model_path, "config.json", revision=revision)
    except (HFValidationError, OSError):  # a URL, or no name of a file
        return path
    return Path(found).parent if isinstance(found, str) else path
