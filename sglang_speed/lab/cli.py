"""The command `sglang-speed`: argument parsing and printing. Heavy imports stay inside the commands."""

from __future__ import annotations

import sys
from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from sglang_speed import SUPPORTED_SGLANG, __version__
from sglang_speed.errors import ConfigError
from sglang_speed.lab.bench.options import BenchOptions
from sglang_speed.lab.common.bands import ConvertOptions
from sglang_speed.lab.common.extras import require_extra
from sglang_speed.lab.common.local_server import ServerFailed
from sglang_speed.lab.common.options import command_of
from sglang_speed.lab.cutoff.options import CutoffOptions
from sglang_speed.lab.evaluation.options import EvaluationOptions
from sglang_speed.lab.plan.options import PlanOptions
from sglang_speed.lab.serve import ServeOptions
from sglang_speed.lab.training.options import TrainOptions

USAGE_ERROR = 2
TAKE_FLAGS = (["serve"], ["bench"], ["eval"])
"""Commands that start servers."""

app = typer.Typer(
    name="sglang-speed",
    help="SPEED for SGLang: prompt tokens pass the lower layers only, generated tokens pass all.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command. Errors are one line on stderr.

    Exit status 2 for a user's mistake, 1 for a failed server or an unreadable or unwritable file, 130 for Ctrl-C.
    """
    try:
        app()
    except SystemExit as ended:
        if ended.code == USAGE_ERROR and sys.argv[1:2] in TAKE_FLAGS and "--" not in sys.argv:
            print(
                f"SGLang's own flags stand behind `--`: sglang-speed {sys.argv[1]} ... -- --port 30001", file=sys.stderr
            )
        raise
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


def convert(options: ConvertOptions) -> None:
    """Make a checkpoint that SGLang can serve with depth bands.

    Example: sglang-speed convert MODEL_DIR SPEED_DIR --prefill-layers 24
    """
    from sglang_speed.checkpoints.adapter import UNTRAINED_COST, UNTRAINED_NEXT, Training
    from sglang_speed.checkpoints.convert import convert as make_checkpoint
    from sglang_speed.checkpoints.hub import local_checkpoint

    made = make_checkpoint(
        local_checkpoint(options.source), options.destination, copy=options.copy, **options.settings()
    )
    if options.json:
        from sglang_speed.checkpoints.describe import describe

        print(dumps({**describe(made.path).to_dict(), "placement": made.placement}, indent=2))
        return
    depth = f"{options.bands.prefill_layers} of {made.speed.num_layers} prefill layers, policy {made.speed.policy}"
    print(f"{made.path}: {depth}, weights by {made.placement}")
    if made.training is Training.UNTRAINED:
        print(UNTRAINED_COST, UNTRAINED_NEXT, sep="\n")


def serve(options: ServeOptions) -> None:
    """Serve any checkpoint in depth bands: says what is served and what it saves, then becomes SGLang's server.

    Example: sglang-speed serve MODEL --policy fastkv -- --port 30001
    """
    from sglang_speed.lab.serve import serve as run

    run(options)


def inspect(
    checkpoint: Annotated[str, typer.Argument(help="SPEED checkpoint directory, or `speed-llama`.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show a checkpoint's bands, what a token costs, and what can be gained at most.

    Example: sglang-speed inspect SPEED_DIR --json
    """
    from sglang_speed.checkpoints.describe import describe, description_table
    from sglang_speed.checkpoints.hub import local_checkpoint

    description = describe(local_checkpoint(checkpoint))
    if json:
        print(dumps(description.to_dict(), indent=2))
        return
    from rich.console import Console

    Console().print(description_table(description))


def doctor(
    model: Annotated[
        str | None, typer.Argument(help="SPEED checkpoint directory, or `speed-llama`: how it would be served.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Say whether SPEED models can be served here: versions, device, changes to SGLang. Exit status 1 if not.

    Example: sglang-speed doctor speed-llama
    """
    from sglang_speed.lab.doctor import findings, table_of

    found = list(findings(model))
    if json:
        from dataclasses import asdict

        print(dumps([asdict(each) for each in found], indent=2))
    else:
        from rich.console import Console

        Console().print(table_of(found))
    raise typer.Exit(int(any(each.fits is False for each in found)))


def default_model(
    verify: Annotated[bool, typer.Option("--verify", help="Compare every byte with its checksum first.")] = False,
    full_depth: Annotated[
        Path | None, typer.Option(help="Write the model that it was made from to this directory, as a plain Llama.")
    ] = None,
) -> None:
    """Build the default model `speed-llama` if it is not in the cache, and print its directory.

    Example: sglang-speed default-model --verify
    """
    from sglang_speed.checkpoints.default_model import default_model as build
    from sglang_speed.checkpoints.default_model import write_full_depth

    print(build(every_byte=verify) if full_depth is None else write_full_depth(full_depth))


def plan(options: PlanOptions) -> None:
    """Say what policies and cutoffs would gain for a model on given GPUs: tokens, requests, and ceilings of TTFT and
    TPOT. Needs config.json only.

    Example: sglang-speed plan Qwen/Qwen3-8B --context 32k --memory 80G
    """
    if options.plot is not None:
        require_extra("bench", "matplotlib")
    from sglang_speed.lab.plan.command import plan as run

    run(options)


def bench(options: BenchOptions) -> None:
    """Compare the speed of stock SGLang and SPEED: the same weights and KV memory, measured in turns.

    Example: sglang-speed bench --model SPEED_DIR --scenario chat --html bench.html
    """
    require_extra("bench", "jinja2", "matplotlib")
    from sglang_speed.lab.bench.command import bench as run

    run(options)


def cutoff(options: CutoffOptions) -> None:
    """Measure which cutoff suits a checkpoint: what each layer does, and what each cutoff costs without training.

    Example: sglang-speed cutoff MODEL_DIR --data chats.jsonl
    """
    if options.plot is not None:
        require_extra("train", "matplotlib")
    from sglang_speed.lab.cutoff.command import measure_cutoffs

    measure_cutoffs(options)


def evaluate(options: EvaluationOptions) -> None:
    """Compare the quality of checkpoints with full depth: perplexity, needles, tool calls, instructions, recall.

    Example: sglang-speed eval SPEED_DIR --full-depth MODEL_DIR --json quality.json
    """
    require_extra("eval", "jsonschema", "matplotlib", "requests")
    from sglang_speed.lab.evaluation.command import evaluate as run

    run(options)


def train(options: TrainOptions) -> None:
    """Train a checkpoint for its cutoff. Run the same command again to continue an interrupted run.

    Example: sglang-speed train MODEL_DIR SPEED_DIR --prefill-layers 24 --data prompts.jsonl
    """
    require_extra("train", "accelerate", "peft")
    from sglang_speed.lab.training.command import finish, run_of, train_checkpoint

    run = run_of(options)
    finish(train_checkpoint(run), run.destination)


app.command(name="plan")(command_of(PlanOptions, plan))
app.command(name="serve")(command_of(ServeOptions, serve))
app.command(name="convert")(command_of(ConvertOptions, convert))
app.command(name="inspect")(inspect)
app.command(name="doctor")(doctor)
app.command(name="bench")(command_of(BenchOptions, bench))
app.command(name="cutoff")(command_of(CutoffOptions, cutoff))
app.command(name="train")(command_of(TrainOptions, train))
app.command(name="eval")(command_of(EvaluationOptions, evaluate))
app.command(name="default-model")(default_model)


if __name__ == "__main__":
    main()
