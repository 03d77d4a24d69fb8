"""The command `sglang-speed`.

Owns argument parsing and what is printed. Heavy imports stay inside the commands, so that `--help` is quick.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from sglang_speed import TESTED_SGLANG, __version__
from sglang_speed.config import DEFAULT_ANCHOR_TOKENS, DEFAULT_TAIL_TOKENS, SpeedConfig
from sglang_speed.errors import ConfigError
from sglang_speed.lab import measuring
from sglang_speed.lab.common.extras import require_extra
from sglang_speed.lab.common.local_server import ServerFailed

PrefillLayers = Annotated[
    int, typer.Option(help="Layers that prompt tokens pass; `sglang-speed cutoff` finds a number.")
]
AnchorTokens = Annotated[int, typer.Option(help="First prompt tokens that pass all layers.")]

app = typer.Typer(
    name="sglang-speed",
    help="SPEED for SGLang: prompt tokens pass the lower layers only, generated tokens pass all.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command; what stops it is one line on stderr.

    Exit status 2 for a user's mistake, 1 for a server that failed or a file that cannot be read or written, 130 for
    Ctrl-C.
    """
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except (ConfigError, ServerFailed, OSError) as error:
        print(f"sglang-speed: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigError) else 1)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        print(f"sglang-speed {__version__}, tested with SGLang {TESTED_SGLANG}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Options of the command itself."""


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="Llama or SPEED checkpoint directory, or `speed-llama`.")],
    destination: Annotated[Path, typer.Argument(help="Directory to make; must be absent or empty.")],
    prefill_layers: PrefillLayers,
    anchor_tokens: AnchorTokens = DEFAULT_ANCHOR_TOKENS,
    tail_tokens: Annotated[int, typer.Option(help="Last prompt tokens that pass all layers.")] = DEFAULT_TAIL_TOKENS,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the weights instead of linking them.")] = False,
) -> None:
    """Make a checkpoint that SGLang can serve with depth bands."""
    from sglang_speed.checkpoints.adapter import UNTRAINED_COST, UNTRAINED_NEXT, Training
    from sglang_speed.checkpoints.convert import convert as make_checkpoint
    from sglang_speed.checkpoints.default_model import resolve_model

    made = make_checkpoint(
        Path(resolve_model(source)),
        destination,
        prefill_layers=prefill_layers,
        anchor_tokens=anchor_tokens,
        tail_tokens=tail_tokens,
        copy=copy,
    )
    depth = f"{made.speed.prefill_layers} of {made.speed.num_layers} prefill layers"
    print(f"{made.path}: {depth}, weights by {made.placement}")
    if made.training is Training.UNTRAINED:
        print(UNTRAINED_COST, UNTRAINED_NEXT, sep="\n")


@app.command()
def inspect(
    checkpoint: Annotated[str, typer.Argument(help="SPEED checkpoint directory, or `speed-llama`.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show a checkpoint's bands, what a token costs, and what can be gained at most."""
    from sglang_speed.checkpoints.default_model import resolve_model
    from sglang_speed.checkpoints.describe import describe, description_table

    description = describe(Path(resolve_model(checkpoint)))
    if json:
        from json import dumps

        print(dumps(description.to_dict(), indent=2))
        return
    from rich.console import Console

    Console().print(description_table(description))


@app.command(name="default-model")
def default_model(
    verify: Annotated[bool, typer.Option("--verify", help="Compare every byte with its checksum first.")] = False,
    full_depth: Annotated[
        Path | None, typer.Option(help="Write the model that it was made from to this directory, as a plain Llama.")
    ] = None,
) -> None:
    """Build the default model `speed-llama` if it is not in the cache, and print its directory."""
    from sglang_speed.checkpoints.default_model import default_model as build
    from sglang_speed.checkpoints.default_model import write_full_depth

    print(build(every_byte=verify) if full_depth is None else write_full_depth(full_depth))


app.command()(measuring.bench)
app.command(name="cutoff")(measuring.cutoff_)
app.command(name="eval")(measuring.eval_)


@app.command()
def train(
    source: Annotated[str, typer.Argument(help="Llama checkpoint directory, or an untrained SPEED one.")],
    destination: Annotated[Path, typer.Argument(help="Directory to make; must be absent or empty.")],
    data: Annotated[
        str, typer.Option(help="Chats (to distil: prompts): a JSONL file, a Parquet file, or OWNER/NAME on the Hub.")
    ],
    prefill_layers: PrefillLayers,
    anchor_tokens: AnchorTokens = DEFAULT_ANCHOR_TOKENS,
    tail_tokens: Annotated[
        list[int] | None,
        typer.Option(
            help="Last prompt tokens that pass all layers; if repeated, all are trained and the first is served."
        ),
    ] = None,
    objective: Annotated[
        str, typer.Option(help="distil: imitate full depth; sft: learn the given answers.")
    ] = "distil",
    first_layer: Annotated[
        int | None, typer.Option(help="Lowest trained layer; default: the cutoff, so only the deep band is trained.")
    ] = None,
    lora_rank: Annotated[int, typer.Option(help="LoRA rank; 0 trains the full weights.")] = 64,
    learning_rate: Annotated[
        float | None, typer.Option(help="Learning rate; default: 5e-4 with LoRA, 5e-5 without.")
    ] = None,
    epochs: Annotated[float, typer.Option(help="Number of epochs.")] = 3,
    batch_size: Annotated[int, typer.Option(help="Chats per step and device.")] = 8,
    accumulate: Annotated[int, typer.Option(help="Gradient accumulation steps.")] = 1,
    max_tokens: Annotated[int, typer.Option(help="Longest accepted chat, in tokens.")] = 4096,
    span_tokens: Annotated[
        int, typer.Option(help="Also learn from a span of this many tokens of each prompt; 0: none.")
    ] = 0,
    answer_tokens: Annotated[int, typer.Option(help="Longest answer that the model writes, in tokens.")] = 256,
    temperature: Annotated[float, typer.Option(help="Sampling temperature of these answers.")] = 0.8,
    held_out: Annotated[float, typer.Option(help="Share of the chats that is held out to measure the loss.")] = 0.05,
    seed: Annotated[int, typer.Option(help="Random seed; the answers are sampled without it.")] = 0,
    work: Annotated[
        Path | None,
        typer.Option(help="Working folder, from which an interrupted run continues; default: DESTINATION.work."),
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Running server of the source at full depth that writes the answers.")
    ] = None,
    log_to: Annotated[
        str, typer.Option(help="Where to log: none, tensorboard, or another reporter of transformers.")
    ] = "none",
    flags: Annotated[
        list[str] | None, typer.Argument(help="After `--`: SGLang flags for the server that writes the answers.")
    ] = None,
) -> None:
    """Train a checkpoint for its cutoff. Run the same command again to continue an interrupted run."""
    require_extra("train", "accelerate", "peft")
    from sglang_speed.checkpoints.atomic import absolute
    from sglang_speed.checkpoints.convert import read_source_config
    from sglang_speed.checkpoints.default_model import resolve_model
    from sglang_speed.lab.common.data import chats_file
    from sglang_speed.lab.training.answers import Sampling
    from sglang_speed.lab.training.checks import refuse_several_processes
    from sglang_speed.lab.training.command import finish, train_checkpoint
    from sglang_speed.lab.training.settings import Objective, Settings, TrainingRun, choose

    refuse_several_processes()
    directory, destination = Path(resolve_model(source)), absolute(destination)
    tails = tuple(dict.fromkeys(tail_tokens or (DEFAULT_TAIL_TOKENS,)))
    num_layers = read_source_config(directory)["num_hidden_layers"]
    run = TrainingRun(
        source=directory,
        destination=destination,
        data=chats_file(data),
        settings=Settings(
            speed=SpeedConfig(num_layers, prefill_layers, anchor_tokens, tails[0]),
            objective=choose(Objective, "objective", objective),
            first_layer=first_layer,
            tails=tails,
            lora_rank=lora_rank,
            learning_rate=learning_rate,
            epochs=epochs,
            batch_size=batch_size,
            accumulate=accumulate,
            span_tokens=span_tokens,
            held_out=held_out,
            max_tokens=max_tokens,
            seed=seed,
            log_to=log_to,
            sampling=Sampling(temperature, answer_tokens),
        ),
        work=work or destination.with_name(f"{destination.name}.work"),
        url=url,
        server_flags=flags or (),
    )
    finish(train_checkpoint(run), destination)


if __name__ == "__main__":
    main()
