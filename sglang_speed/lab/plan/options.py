"""The options of `sglang-speed plan`. Imports nothing heavy, so that `--help` is quick."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from sglang_speed.errors import ConfigError
from sglang_speed.policy_config import POLICY_TRAITS

_SIZE = re.compile(r"(\d+(?:\.\d+)?)([kKmMgGtT]?)(?:i?[bB])?")
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


@dataclass(frozen=True)
class PlanOptions:
    model: Annotated[
        str,
        typer.Argument(
            help="Directory with a config.json, hub id in the local cache, or `speed-llama`; weights may be missing."
        ),
    ]
    context: Annotated[str, typer.Option(help="Prompt tokens of a request: 8192, 32k.")] = "32k"
    answer: Annotated[int, typer.Option(help="Generated tokens of a request.")] = 512
    memory: Annotated[str, typer.Option(help="Memory of one GPU: 80G, in GiB.")] = "80G"
    gpus: Annotated[int, typer.Option(help="GPUs that share the model (SGLang's --tp-size).")] = 1
    mem_fraction: Annotated[
        float, typer.Option(help="Share of the memory for weights and KV (SGLang's --mem-fraction-static).")
    ] = 0.85
    weights: Annotated[
        str | None, typer.Option(help="Memory of the weights, all GPUs together; default: of the files, or estimated.")
    ] = None
    requests: Annotated[int, typer.Option(help="Requests that may run at once (SGLang's --max-running-requests).")] = (
        256
    )
    policy: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{', '.join(POLICY_TRAITS)}, and settings behind it: fastkv,select_ratio=0.1; may be given several "
            "times; default: each."
        ),
    ] = None
    prefill_layers: Annotated[
        list[int] | None,
        typer.Option(help="A cutoff; may be given several times; default: 1/2, 5/8, 3/4 and 7/8 of the layers."),
    ] = None
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False
    plot: Annotated[Path | None, typer.Option(help="Picture to write, .svg or .png.")] = None

    def __post_init__(self) -> None:
        for name, least in (("answer", 1), ("gpus", 1), ("requests", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"--{name} {getattr(self, name)} is below {least}: give at least that")
        if not 0 < self.mem_fraction < 1:
            raise ConfigError(
                f"--mem-fraction {self.mem_fraction} is not between 0 and 1: it is a share of the GPU's memory; 0.85 "
                "is the default"
            )


def tokens_in(option: str, text: str) -> int:
    """A number of tokens; 32k is 32 * 1024."""
    return _number(option, text, "8192 or 32k", "km")


def bytes_in(option: str, text: str) -> int:
    """A number of bytes; 80G is 80 GiB."""
    return _number(option, text, "80G", "kmgt")


def _number(option: str, text: str, example: str, units: str) -> int:
    found = _SIZE.fullmatch(text)
    unit = found[2].lower() if found else ""
    number = int(float(found[1]) * 1024 ** _POWERS[unit]) if found else 0
    if number < 1 or (unit and unit not in units):
        raise ConfigError(f"--{option} {text} is not a size: write a number such as {example}")
    return number
