"""The command `sglang-speed`: argument parsing and printing. Heavy imports stay inside the commands."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from sglang_speed import SUPPORTED_SGLANG, __version__
from sglang_speed.errors import ConfigError
from sglang_speed.lab.bench.options import BenchOptions
from sglang_speed.lab.common.extras import require_extra
from sglang_speed.lab.common.local_server import ServerFailed
from sglang_speed.lab.common.options import command_of
from sglang_speed.lab.cutoff.options import CutoffOptions
from sglang_speed.lab.evaluation.options import EvaluationOptions
from sglang_speed.lab.training.options import TrainOptions
from sglang_speed.policy_config import DEFAULT_POLICY, POLICY_TRAITS

Number = TypeVar("Number", int, float)

app = typer.Typer(
    name="sglang-speed",
    help="SPEED for SGLang: prompt tokens pass the lower layers only, generated tokens pass all.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command. Errors are one line on stderr.

    Exit status 2 for a user's mistake, 1 for a failed server or an unreadable or unwritable file, 130 for Ctrl-C.
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
        print(f"sglang-speed {__version__}, tested with SGLang {' and '.join(SUPPORTED_SGLANG)}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Options of the command itself."""


def _defaults(name: str) -> str:
    """The default of each policy, for a help text."""
    return "; default: " + ", ".join(f"{getattr(row, name)} ({policy})" for policy, row in POLICY_TRAITS.items()) + "."


def _one_or_several(option: str, text: str, kind: Callable[[str], Number]) -> Number | list[Number]:
    """The numbers of an option that takes several of them, separated by commas."""
    try:
        numbers = [kind(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--{option} {text} is no number, nor several with commas between them") from error
    return numbers[0] if len(numbers) == 1 else numbers


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="Directory, hub id in the local cache, or `speed-llama`.")],
    destination: Annotated[Path, typer.Argument(help="Directory to make; must be absent or empty.")],
    prefill_layers: Annotated[
        str,
        typer.Option(
            metavar="N[,N...]",
            help="Layers that prompt tokens pass; several numbers begin a deep band each. `sglang-speed cutoff` finds "
            "one.",
        ),
    ],
    policy: Annotated[str, typer.Option(help=f"Depth policy: {', '.join(POLICY_TRAITS)}.")] = DEFAULT_POLICY,
    anchor_tokens: Annotated[
        int | None, typer.Option(help=f"First prompt tokens that pass all layers{_defaults('anchor_tokens')}")
    ] = None,
    tail_tokens: Annotated[
        int | None, typer.Option(help=f"Last prompt tokens that pass all layers{_defaults('tail_tokens')}")
    ] = None,
    select_ratio: Annotated[
        str | None,
        typer.Option(
            metavar="R[,R...]",
            help="fastkv: share of the prompt that passes the deep layers, or one for each cutoff; default: 0.2.",
        ),
    ] = None,
    select_window: Annotated[
        int | None, typer.Option(help="fastkv: last prompt tokens whose attention chooses; default: 8.")
    ] = None,
    select_kernel: Annotated[
        int | None, typer.Option(help="fastkv: positions over which scores are max-pooled, odd; default: 7.")
    ] = None,
    kv_keep: Annotated[
        float | None,
        typer.Option(help="fastkv: share of a prompt that decode reads, in every layer; default: 1, all of it."),
    ] = None,
    deep_message_tokens: Annotated[
        int | None, typer.Option(help="Messages of at most so many tokens pass all layers; default: 0, none.")
    ] = None,
    message_delimiter: Annotated[
        list[str] | None,
        typer.Option(help="Text with which a message begins, beside those of the chat template; may be repeated."),
    ] = None,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the weights instead of linking them.")] = False,
) -> None:
    """Make a checkpoint that SGLang can serve with depth bands."""
    from sglang_speed.checkpoints.adapter import UNTRAINED_COST, UNTRAINED_NEXT, Training
    from sglang_speed.checkpoints.convert import convert as make_checkpoint
    from sglang_speed.checkpoints.hub import local_checkpoint

    made = make_checkpoint(
        local_checkpoint(source),
        destination,
        prefill_layers=_one_or_several("prefill-layers", prefill_layers, int),
        policy=policy,
        copy=copy,
        message_delimiters=message_delimiter or (),
        anchor_tokens=anchor_tokens,
        tail_tokens=tail_tokens,
        select_ratio=None if select_ratio is None else _one_or_several("select-ratio", select_ratio, float),
        select_window=select_window,
        select_kernel=select_kernel,
        kv_keep=kv_keep,
        deep_message_tokens=deep_message_tokens,
    )
    depth = f"{prefill_layers} of {made.speed.num_layers} prefill layers, policy {made.speed.policy}"
    print(f"{made.path}: {depth}, weights by {made.placement}")
    if made.training is Training.UNTRAINED:
        print(UNTRAINED_COST, UNTRAINED_NEXT, sep="\n")


@app.command()
def inspect(
    checkpoint: Annotated[str, typer.Argument(help="SPEED checkpoint directory, or `speed-llama`.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show a checkpoint's bands, what a token costs, and what can be gained at most."""
    from sglang_speed.checkpoints.describe import describe, description_table
    from sglang_speed.checkpoints.hub import local_checkpoint

    description = describe(local_checkpoint(checkpoint))
    if json:
        from json import dumps

        print(dumps(description.to_dict(), indent=2))
        return
    from rich.console import Console

    Console().print(description_table(description))


@app.command()
def doctor(
    model: Annotated[
        str | None, typer.Argument(help="SPEED checkpoint directory, or `speed-llama`: how it would be served.")
    ] = None,
) -> None:
    """Say whether SPEED models can be served here: versions, device, changes to SGLang. Exit status 1 if not."""
    from rich.console import Console

    from sglang_speed.lab.doctor import findings, table_of

    found = list(findings(model))
    Console().print(table_of(found))
    raise typer.Exit(int(any(each.fits is False for each in found)))


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


def bench(options: BenchOptions) -> None:
    """Compare the speed of stock SGLang and SPEED: the same weights and KV memory, measured in turns."""
    require_extra("bench", "jinja2", "matplotlib")
    from sglang_speed.lab.bench.command import bench as run

    run(options)


def cutoff(options: CutoffOptions) -> None:
    """Measure which cutoff suits a checkpoint: what each layer does, and what each cutoff costs without training."""
    if options.plot is not None:
        require_extra("train", "matplotlib")
    from sglang_speed.lab.cutoff.command import measure_cutoffs

    measure_cutoffs(options)


def evaluate(options: EvaluationOptions) -> None:
    """Compare the quality of checkpoints with full depth: perplexity, needles, tool calls, instructions, recall."""
    require_extra("eval", "jsonschema", "matplotlib", "requests")
    from sglang_speed.lab.evaluation.command import evaluate as run

    run(options)


def train(options: TrainOptions) -> None:
    """Train a checkpoint for its cutoff. Run the same command again to continue an interrupted run."""
    require_extra("train", "accelerate", "peft")
    from sglang_speed.lab.training.command import finish, run_of, train_checkpoint

    run = run_of(options)
    finish(train_checkpoint(run), run.destination)


app.command(name="bench")(command_of(BenchOptions, bench))
app.command(name="cutoff")(command_of(CutoffOptions, cutoff))
app.command(name="eval")(command_of(EvaluationOptions, evaluate))
app.command(name="train")(command_of(TrainOptions, train))


if __name__ == "__main__":
    main()
