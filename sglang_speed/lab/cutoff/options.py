"""The options of `sglang-speed cutoff`. Imports nothing heavy, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from sglang_speed.errors import ConfigError
from sglang_speed.policy_config import POLICY_TRAITS


@dataclass(frozen=True)
class CutoffOptions:
    checkpoint: Annotated[
        str, typer.Argument(help="Directory, or hub id in the local cache; not trained for a cutoff.")
    ]
    data: Annotated[
        str | None,
        typer.Option(
            help="Chats like those to be served: a JSONL file, a Parquet file, or OWNER/NAME on the Hub; left out: "
            "the model answers built-in prompts."
        ),
    ] = None
    samples: Annotated[
        int, typer.Option(help="Answers to measure; each takes SmolLM2-135M about 26 s of one core.")
    ] = 64
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0
    cutoff: Annotated[
        list[int] | None,
        typer.Option(
            help="Prefill layers to measure; may be given several times; default: the upper half, and for other "
            "policies than SPEED 1/2, 5/8, 3/4 and 7/8 of the layers."
        ),
    ] = None
    policy: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Policies to measure beside SPEED: {', '.join(POLICY_TRAITS)}, and settings behind it; may be given "
            "several times; `speed` alone measures no others; default: speed,tail_tokens=128, pop, "
            "fastkv,select_ratio=0.2, and the same with 0.4 and 0.8."
        ),
    ] = None
    anchor_tokens: Annotated[
        int | None,
        typer.Option(help="First prompt tokens that pass all layers, for SPEED; default: the checkpoint's, or 1."),
    ] = None
    tail_tokens: Annotated[
        int | None,
        typer.Option(help="Last prompt tokens that pass all layers, for SPEED; default: the checkpoint's, or 16."),
    ] = None
    max_kl: Annotated[
        float, typer.Option(help="KL from full depth to accept without training, in nats per answer token.")
    ] = 0.1
    max_tokens: Annotated[
        int, typer.Option(help="Most tokens of a prompt and its answer; longer ones are left out.")
    ] = 1024
    json: Annotated[Path | None, typer.Option(help="JSON file to write, with all figures.")] = None
    plot: Annotated[Path | None, typer.Option(help="PNG file to write, with a picture.")] = None

    def __post_init__(self) -> None:
        if not self.max_kl > 0:
            raise ConfigError(
                f"--max-kl {self.max_kl:g} is not above 0: it is the divergence from full depth, in nats per token, "
                "that is accepted without training; 0.1 is the default"
            )
