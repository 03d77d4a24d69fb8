"""The options of `sglang-speed train`. Imports nothing heavy, so that `--help` is quick."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from sglang_speed.lab.common.options import AnchorTokens, PrefillLayers
from sglang_speed.policy_config import DEFAULT_ANCHOR_TOKENS


@dataclass(frozen=True)
class Hyperparameters:
    """The options that do not depend on the checkpoint."""

    objective: Annotated[str, typer.Option(help="distil: imitate full depth; sft: learn the given answers.")] = "distil"
    first_layer: Annotated[
        int | None, typer.Option(help="Lowest trained layer; default: the cutoff, so only the deep band is trained.")
    ] = None
    lora_rank: Annotated[int, typer.Option(help="LoRA rank; 0 trains the full weights.")] = 64
    learning_rate: Annotated[
        float | None, typer.Option(help="Learning rate; default: 5e-4 with LoRA, 5e-5 without.")
    ] = None
    epochs: Annotated[float, typer.Option(help="Number of epochs.")] = 3
    batch_size: Annotated[int, typer.Option(help="Chats per step and device.")] = 8
    accumulate: Annotated[int, typer.Option(help="Gradient accumulation steps.")] = 1
    max_tokens: Annotated[int, typer.Option(help="Longest accepted chat, in tokens.")] = 4096
    span_tokens: Annotated[
        int, typer.Option(help="Also learn from a span of this many tokens of each prompt; 0: none.")
    ] = 0
    answer_tokens: Annotated[int, typer.Option(help="Longest answer that the model writes, in tokens.")] = 256
    temperature: Annotated[float, typer.Option(help="Sampling temperature of these answers.")] = 0.8
    held_out: Annotated[float, typer.Option(help="Share of the chats that is held out to measure the loss.")] = 0.05
    seed: Annotated[int, typer.Option(help="Random seed; the answers are sampled without it.")] = 0


@dataclass(frozen=True)
class TrainOptions:
    source: Annotated[str, typer.Argument(help="Directory, or hub id in the local cache; not trained for a cutoff.")]
    destination: Annotated[Path, typer.Argument(help="Directory to make; must be absent or empty.")]
    data: Annotated[
        str, typer.Option(help="Chats (to distil: prompts): a JSONL file, a Parquet file, or OWNER/NAME on the Hub.")
    ]
    prefill_layers: PrefillLayers
    anchor_tokens: AnchorTokens = DEFAULT_ANCHOR_TOKENS
    tail_tokens: Annotated[
        list[int] | None,
        typer.Option(
            help="Last prompt tokens that pass all layers; if repeated, all are trained and the first is served."
        ),
    ] = None
    hyperparameters: Hyperparameters = field(default_factory=Hyperparameters)
    work: Annotated[
        Path | None,
        typer.Option(help="Working folder, from which an interrupted run continues; default: DESTINATION.work."),
    ] = None
    url: Annotated[
        str | None, typer.Option(help="Running server of the source at full depth that writes the answers.")
    ] = None
    log_to: Annotated[
        str, typer.Option(help="Where to log: none, tensorboard, or another reporter of transformers.")
    ] = "none"
    flags: Annotated[
        list[str] | None, typer.Argument(help="After `--`: SGLang flags for the server that writes the answers.")
    ] = None
