"""The options of `sglang-speed eval`. Imports nothing heavy, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Annotated

import typer

from sglang_speed.lab.evaluation import DEFAULT_TASKS, NUM_SAMPLES, TASK_NAMES


@dataclass(frozen=True)
class EvaluationOptions:
    models: Annotated[
        list[str] | None, typer.Argument(help="Checkpoints, as DIR or NAME=DIR; after `--`: SGLang flags.")
    ] = None
    full_depth: Annotated[
        str | None,
        typer.Option(help="The model to compare with, as DIR or URL; default: the weights of an untrained checkpoint."),
    ] = None
    url: Annotated[str | None, typer.Option(help="A running server to evaluate, instead of checkpoints.")] = None
    tail_tokens: Annotated[
        list[int] | None, typer.Option(help="Tail tokens to serve SPEED checkpoints with; may be given several times.")
    ] = None
    task: Annotated[
        list[str] | None,
        typer.Option(help=f"{', '.join(TASK_NAMES)}; may be given several times; default: {', '.join(DEFAULT_TASKS)}."),
    ] = None
    samples: Annotated[int, typer.Option(help="Questions in each task.")] = NUM_SAMPLES
    length: Annotated[
        list[int] | None, typer.Option(help="Words in a text with a needle; may be given several times.")
    ] = None
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0
    servers: Annotated[
        int, typer.Option(help="Servers at a time; on a CPU with OMP_NUM_THREADS=1, one for each core.")
    ] = 1
    json: Annotated[
        Path | None, typer.Option(help="JSON file to write; a later run does not ask again what is in it.")
    ] = None
    plot: Annotated[Path | None, typer.Option(help="Folder to write the pictures to.")] = None

    @property
    def checkpoints(self) -> list[str]:
        """`models` up to the first flag."""
        return list(takewhile(lambda word: not word.startswith("-"), self.models or ()))

    @property
    def flags(self) -> list[str]:
        """SGLang flags for all servers: the rest of `models`."""
        return (self.models or [])[len(self.checkpoints) :]
