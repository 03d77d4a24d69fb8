"""The options of `sglang-speed bench`. Imports nothing heavy, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from sglang_speed.errors import ConfigError
from sglang_speed.lab.bench import ARCH_NAMES, PROFILE_NAMES, SCENARIO_NAMES
from sglang_speed.policy_config import POLICY_TRAITS

LORA_FLAGS = ("--enable-lora", "--lora-paths")


@dataclass(frozen=True)
class BenchOptions:
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="SPEED checkpoint, or `speed-llama`; may be given several times, for one model; default: a model with "
            "random weights."
        ),
    ] = None
    full_depth: Annotated[
        Path | None, typer.Option(help="The same model at full depth; default: made from --model.")
    ] = None
    profile: Annotated[
        str | None, typer.Option(help=f"How large the run is: {', '.join(PROFILE_NAMES)}; default: gpu, or else cpu.")
    ] = None
    arch: Annotated[
        str | None, typer.Option(help=f"Architecture of the random model: {', '.join(ARCH_NAMES)}; default: llama.")
    ] = None
    policy: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Policy of the random model, {', '.join(POLICY_TRAITS)}, and settings behind it: "
            "fastkv,prefill_layers=16,kv_keep=0.1; may be given several times; default: speed."
        ),
    ] = None
    scenario: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(SCENARIO_NAMES)}; may be given several times; default: all.")
    ] = None
    length: Annotated[list[int] | None, typer.Option(help="Prompt tokens; may be given several times.")] = None
    lora_rank: Annotated[
        int | None, typer.Option(help="Every request uses a LoRA adapter of this rank, with random weights.")
    ] = None
    bare: Annotated[
        bool,
        typer.Option(
            "--bare", help="Serve each rival once more, without the adapter and the flags after `--`: what they change."
        ),
    ] = False
    json: Annotated[Path | None, typer.Option(help="JSON file to write, with all figures and samples.")] = None
    plot: Annotated[Path | None, typer.Option(help="Folder to write the pictures to.")] = None
    html: Annotated[Path | None, typer.Option(help="HTML page to write, with the table and the pictures.")] = None
    flags: Annotated[list[str] | None, typer.Argument(help="After `--`: SGLang flags for all servers.")] = None

    def __post_init__(self) -> None:
        if self.profile is not None and self.profile not in PROFILE_NAMES:
            raise ConfigError(f"--profile {self.profile} is not one of {', '.join(PROFILE_NAMES)}: choose one of these")
        if self.full_depth is not None and not self.model:
            raise ConfigError("--full-depth needs --model: it is the stock checkpoint of the model named there")
        if self.arch is not None and self.arch not in ARCH_NAMES:
            raise ConfigError(f"--arch {self.arch} is not one of {', '.join(ARCH_NAMES)}: choose one of these")
        if self.bare and not self.flags and self.lora_rank is None:
            raise ConfigError(
                "--bare leaves out --lora-rank and the flags after `--`, and there are none: give some, or omit it"
            )
        if self.lora_rank is not None and any(flag.split("=")[0] in LORA_FLAGS for flag in self.flags or ()):
            raise ConfigError(
                f"{', '.join(LORA_FLAGS)} cannot stand beside --lora-rank, which gives the servers an adapter that "
                "every request names: omit one of them"
            )
        for name in ("arch", "policy"):
            if getattr(self, name) and self.model:
                raise ConfigError(f"--{name} is for the random model, and --model has its own: omit one of them")
