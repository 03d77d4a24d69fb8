"""The options that say which bands a checkpoint gets, and those of `convert`. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from sglang_speed.errors import ConfigError
from sglang_speed.policy_config import DEFAULT_POLICY, POLICY_TRAITS

Number = TypeVar("Number", int, float)


def _defaults(name: str) -> str:
    """The default of each policy, for a help text."""
    return "; default: " + ", ".join(f"{getattr(row, name)} ({policy})" for policy, row in POLICY_TRAITS.items()) + "."


@dataclass(frozen=True)
class BandOptions:
    """As the user wrote them; None where nothing was written."""

    prefill_layers: Annotated[
        str | None,
        typer.Option(
            metavar="N[,N...]",
            help="Layers that prompt tokens pass; several numbers begin a deep band each. `sglang-speed cutoff` finds "
            "one.",
        ),
    ] = None
    policy: Annotated[
        str | None, typer.Option(help=f"Depth policy: {', '.join(POLICY_TRAITS)}; default: {DEFAULT_POLICY}.")
    ] = None
    anchor_tokens: Annotated[
        int | None, typer.Option(help=f"First prompt tokens that pass all layers{_defaults('anchor_tokens')}")
    ] = None
    tail_tokens: Annotated[
        int | None, typer.Option(help=f"Last prompt tokens that pass all layers{_defaults('tail_tokens')}")
    ] = None
    select_ratio: Annotated[
        str | None,
        typer.Option(
            metavar="R[,R...]",
            help="fastkv: share of the prompt that passes the deep layers, or one for each cutoff; default: 0.2.",
        ),
    ] = None
    select_window: Annotated[
        int | None, typer.Option(help="fastkv: last prompt tokens whose attention chooses; default: 8.")
    ] = None
    select_kernel: Annotated[
        int | None, typer.Option(help="fastkv: positions over which scores are max-pooled, odd; default: 7.")
    ] = None
    kv_keep: Annotated[
        float | None,
        typer.Option(help="fastkv: share of a prompt that decode reads, in every layer; default: 1, all of it."),
    ] = None
    deep_message_tokens: Annotated[
        int | None, typer.Option(help="Messages of at most so many tokens pass all layers; default: 0, none.")
    ] = None
    message_delimiter: Annotated[
        list[str] | None,
        typer.Option(help="Text with which a message begins, beside those of the chat template; may be repeated."),
    ] = None

    @property
    def given(self) -> list[str]:
        """The options that were written."""
        return [f"--{each.name.replace('_', '-')}" for each in fields(self) if getattr(self, each.name)]

    def settings(self) -> dict[str, Any]:
        """What `checkpoints.convert` takes, with numbers for texts; ConfigError for a text that is none."""
        named = {each.name: getattr(self, each.name) for each in fields(self)}
        for name, kind in (("prefill_layers", int), ("select_ratio", float)):
            if named[name] is not None:
                named[name] = _one_or_several(name.replace("_", "-"), named[name], kind)
        named["policy"] = self.policy or DEFAULT_POLICY
        named["message_delimiters"] = named.pop("message_delimiter") or ()
        return named


@dataclass(frozen=True)
class ConvertOptions:
    source: Annotated[str, typer.Argument(help="Directory, hub id in the local cache, or `speed-llama`.")]
    destination: Annotated[Path, typer.Argument(help="Directory to make; must be absent or empty.")]
    bands: BandOptions
    copy: Annotated[bool, typer.Option("--copy", help="Copy the weights instead of linking them.")] = False
    json: Annotated[bool, typer.Option("--json", help="Print what was made as JSON.")] = False

    def settings(self) -> dict[str, Any]:
        """ConfigError where no cutoff was named: a checkpoint keeps it."""
        if self.bands.prefill_layers is None:
            raise ConfigError(
                "--prefill-layers is missing: it is the number of layers that prompt tokens pass; `sglang-speed "
                "cutoff` finds one, and three quarters of the layers is usual"
            )
        return self.bands.settings()


def _one_or_several(option: str, text: str, kind: Callable[[str], Number]) -> Number | list[Number]:
    """The numbers of an option that takes several of them, separated by commas."""
    try:
        numbers = [kind(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--{option} {text} is no number, nor several with commas between them") from error
    return numbers[0] if len(numbers) == 1 else numbers
