"""The name `speed-llama`: a small SPEED checkpoint, built once into the user's cache.

Owns the cache directory and its lock. A finished checkpoint there is never written to again.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sglang_speed.checkpoints import smollm2
from sglang_speed.checkpoints.adapter import PROVENANCE_NAME, merge_adapter, read_provenance
from sglang_speed.checkpoints.atomic import (
    absolute,
    build_lock,
    discard,
    new_directory,
    remove_leftovers,
    require_free,
    writing_to,
)
from sglang_speed.checkpoints.card import write_card
from sglang_speed.checkpoints.convert import write_speed_config
from sglang_speed.checkpoints.manifest import file_sha256, find_damage, write_manifest
from sglang_speed.config import SpeedConfig
from sglang_speed.errors import ConfigError

if TYPE_CHECKING:
    from rich.progress import Progress

DEFAULT_MODEL = "speed-llama"
DEFAULT_SPEED = SpeedConfig(num_layers=smollm2.NUM_LAYERS, prefill_layers=24)
ADAPTER = Path(__file__).with_name("speed_llama.safetensors")
"""What training for that cutoff changed: recipes/speed_llama has the commands that made it."""
ADAPTER_SHA256 = "0192aa0e338fffecf648c69edb8fee6a4b742aedb0d3ad06a2e77d477b8e7193"

_BUILD = 3  # counts what this module writes: raise it when the same settings give other files
_NEEDED_BYTES = 400 * 2**20  # the weights, 269 MB, and room for the rest
OTHER_CACHE = "set XDG_CACHE_HOME to a directory with room and with permission to write"


def resolve_model(name: str) -> str:
    """What a user calls a model: an existing path as it is, `speed-llama` as the path of the default model, any
    other name unchanged. Builds the default model where it is not in the cache; ConfigError where it cannot be had.
    """
    if name != DEFAULT_MODEL or Path(name).exists():
        return name
    return str(default_model())


def default_model(*, every_byte: bool = False) -> Path:
    """The directory of the default model, built if it is absent or damaged.

    every_byte: compare the weights with their checksums too, not only their size.
    """
    directory = default_model_directory()
    if find_damage(directory, every_byte=every_byte) is None:
        return directory
    with writing_to(directory, OTHER_CACHE), build_lock(directory):
        damage = find_damage(directory, every_byte=every_byte)
        if damage is not None:
            _rebuild(directory, damage)
    return directory


def write_full_depth(directory: Path) -> Path:
    """Write the packaged model to `directory`, absent or empty, as the plain Llama checkpoint that it is."""
    gguf = smollm2.locate_gguf()
    directory = absolute(directory)
    require_free(directory)
    with writing_to(directory), _progress() as progress, new_directory(directory) as partial:
        smollm2.write_llama_checkpoint(
            gguf, partial, track=lambda tensors: progress.track(list(tensors), description="Dequantizing")
        )
    return directory


def default_model_directory() -> Path:
    """Where the default model of this version and settings belongs, whether it is there or not."""
    speed = DEFAULT_SPEED
    settings = f"{speed.prefill_layers}-{speed.anchor_tokens}-{speed.tail_tokens}"
    source = f"{smollm2.PACKAGE}-{smollm2.PACKAGE_VERSION}"
    name = f"{DEFAULT_MODEL}-{source}-{settings}-{ADAPTER_SHA256[:8]}-build{_BUILD}"
    return user_cache() / "models" / name


def user_cache() -> Path:
    """The user's cache for this package; `$XDG_CACHE_HOME/sglang-speed` or `~/.cache/sglang-speed` on Linux."""
    from platformdirs import user_cache_path

    try:
        return user_cache_path("sglang-speed", appauthor=False)
    except RuntimeError as error:
        raise ConfigError("a cache is needed and this user has no home: set XDG_CACHE_HOME") from error


def _rebuild(directory: Path, damage: str) -> None:
    gguf = smollm2.locate_gguf()
    _require_adapter()
    if directory.exists():
        print(f"sglang-speed: {directory} is damaged ({damage}), building it again", file=sys.stderr)
        discard(directory)
    else:
        print(f"sglang-speed: building {DEFAULT_MODEL} in {directory}, once: up to a minute", file=sys.stderr)
    remove_leftovers(directory)
    _require_space(directory.parent)
    with _progress() as progress, new_directory(directory) as partial:
        _build(gguf, partial, progress)


def _require_adapter() -> None:
    if not ADAPTER.is_file() or file_sha256(ADAPTER) != ADAPTER_SHA256:
        raise ConfigError(
            f"{ADAPTER} is missing or is not the file of this version (sha256 {ADAPTER_SHA256}): install sglang-speed "
            "again"
        )


def _build(gguf: Path, directory: Path, progress: Progress) -> None:
    """Write the SPEED checkpoint into `directory`, the manifest last."""
    step = progress.add_task(f"Building {DEFAULT_MODEL}", total=None)
    smollm2.write_llama_checkpoint(
        gguf,
        directory,
        track=lambda tensors: progress.track(list(tensors), description="Dequantizing"),
        change=lambda weights: merge_adapter(weights, ADAPTER),
    )
    write_speed_config(directory, DEFAULT_SPEED)
    (directory / PROVENANCE_NAME).write_text(json.dumps(read_provenance(ADAPTER), indent=2) + "\n", encoding="utf-8")
    write_card(directory, smollm2.HUB_ID)
    progress.update(step, description="Checksums")
    write_manifest(directory)


@contextmanager
def _progress() -> Iterator[Progress]:
    """A progress bar on stderr, silent where stderr is not a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        yield progress


def _require_space(directory: Path) -> None:
    free = shutil.disk_usage(directory).free
    if free < _NEEDED_BYTES:
        raise ConfigError(
            f"{directory} has {free // 2**20} MiB free and the default model needs {_NEEDED_BYTES // 2**20} MiB: free "
            f"some space or {OTHER_CACHE}"
        )
