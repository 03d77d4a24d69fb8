"""The command `sglang-speed`.

Owns argument parsing and what is printed. Heavy imports stay inside the commands, so that `--help` is quick.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from sglang_speed.config import DEFAULT_ANCHOR_TOKENS, DEFAULT_TAIL_TOKENS
from sglang_speed.errors import ConfigError

app = typer.Typer(
    name="sglang-speed",
    help="SPEED for SGLang: prompt tokens pass the lower layers only, generated tokens pass all.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command; a user's mistake is one line on stderr and exit status 2."""
    try:
        app()
    except ConfigError as error:
        print(f"sglang-speed: {error}", file=sys.stderr)
        sys.exit(2)


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="Llama or SPEED checkpoint directory, or `speed-llama`.")],
    destination: Annotated[Path, typer.Argument(help="Directory to make; must be absent or empty.")],
    prefill_layers: Annotated[int, typer.Option(help="Layers that prompt tokens pass; 3/4 of all is usual.")],
    anchor_tokens: Annotated[int, typer.Option(help="First prompt tokens that pass all layers.")] = (
        DEFAULT_ANCHOR_TOKENS
    ),
    tail_tokens: Annotated[int, typer.Option(help="Last prompt tokens that pass all layers.")] = DEFAULT_TAIL_TOKENS,
    copy: Annotated[bool, typer.Option("--copy", help="Copy the weights instead of linking them.")] = False,
) -> None:
    """Make a checkpoint that SGLang can serve with depth bands."""
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
) -> None:
    """Build the default model `speed-llama` if it is not in the cache, and print its directory."""
    from sglang_speed.checkpoints.default_model import default_model as build

    print(build(every_byte=verify))


if __name__ == "__main__":
    main()
