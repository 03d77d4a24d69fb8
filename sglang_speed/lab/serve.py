"""`sglang-speed serve`: SGLang's own server for any checkpoint, in the bands that the user asks for.

Owns the folder of converted checkpoints in the user's cache. The server replaces this process, so that signals and exit
status are its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from sglang_speed.errors import ConfigError
from sglang_speed.lab.common.bands import BandOptions
from sglang_speed.policy_config import POLICY_TRAITS

OWN_FLAGS = ("--model", "--model-path")
NAME_FLAG = "--served-model-name"


@dataclass(frozen=True)
class ServeOptions:
    model: Annotated[str, typer.Argument(help="Checkpoint directory, hub id in the local cache, or `speed-llama`.")]
    bands: BandOptions
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be served and by which command; start nothing.")
    ] = False
    flags: Annotated[
        list[str] | None, typer.Argument(help="After `--`: flags of `python -m sglang.launch_server`.")
    ] = None


def serve(options: ServeOptions) -> None:
    """Say what is served and what it saves, then become SGLang's server; ConfigError for what cannot be served."""
    from rich.console import Console

    from sglang_speed.checkpoints.describe import describe, description_table

    flags = options.flags or []
    _require_no_model(flags)
    directory = served_checkpoint(options.model, options.bands)
    Console().print(description_table(describe(directory)))
    command = command_for(directory, options.model, flags)
    print(f"$ {shlex.join(command)}", flush=True)
    if not options.dry_run:
        os.execv(sys.executable, command)


def command_for(directory: Path, name: str, flags: Sequence[str]) -> list[str]:
    """Clients name the model as the user did, whatever its directory is called."""
    is_named = any(flag.split("=")[0] == NAME_FLAG for flag in flags)
    naming = [] if is_named else [NAME_FLAG, name]
    return [sys.executable, "-m", "sglang.launch_server", "--model-path", str(directory), *naming, *flags]


def served_checkpoint(model: str, bands: BandOptions) -> Path:
    """The SPEED checkpoint itself, or one in the user's cache that is made of another checkpoint's files by links."""
    from sglang_speed.checkpoints.convert import read_source_config
    from sglang_speed.checkpoints.hub import local_checkpoint
    from sglang_speed.config import decoder_config, is_speed_model

    source = local_checkpoint(model)
    config = read_source_config(source)
    if is_speed_model(config):
        if bands.given:
            raise ConfigError(
                f"{bands.given[0]} is for a checkpoint without bands, and {model} has its own: leave it out, or name "
                "the model that it was made from"
            )
        return source
    return _converted(source, bands, decoder_config(config)["num_hidden_layers"])


def _converted(source: Path, bands: BandOptions, num_layers: int) -> Path:
    """One conversion for each source, as it is now, and each choice of bands; a finished one is taken as it is."""
    from sglang_speed.checkpoints.atomic import build_lock
    from sglang_speed.checkpoints.card import model_name
    from sglang_speed.checkpoints.convert import convert
    from sglang_speed.checkpoints.default_model import user_cache

    settings = bands.settings()
    if settings["prefill_layers"] is None:
        settings["prefill_layers"] = _usual_cutoff(settings["policy"], num_layers)
        print(f"--prefill-layers was left out: prompts pass {settings['prefill_layers']} of {num_layers} layers")
    name = f"{model_name(source).replace('/', '--')}-{settings['policy']}-{_digest(source, settings)}"
    directory = user_cache() / "served" / name
    with build_lock(directory):
        if not directory.is_dir():
            convert(source, directory, **settings)
    return directory


def _usual_cutoff(policy: str, num_layers: int) -> int:
    if policy not in POLICY_TRAITS:
        raise ConfigError(f"--policy {policy} is not one of {', '.join(POLICY_TRAITS)}: choose one of these")
    return POLICY_TRAITS[policy].usual_cutoff(num_layers)


def _digest(source: Path, settings: dict[str, object]) -> str:
    """Of the settings, and of name, size and time of every file of the source."""
    files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(source.iterdir())]
    seen = json.dumps([str(source.resolve()), files, settings], sort_keys=True)
    return hashlib.sha256(seen.encode()).hexdigest()[:12]


def _require_no_model(flags: Sequence[str]) -> None:
    for flag in flags:
        if flag.split("=")[0] in OWN_FLAGS:
            raise ConfigError(f"{flag} is among SGLang's flags, and the model is named before `--`: leave it out there")
