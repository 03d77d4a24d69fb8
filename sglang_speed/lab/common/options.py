"""Commands whose options are the fields of a dataclass: name, type, default and help are in one place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from inspect import Parameter, Signature
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import typer

Options = TypeVar("Options")

PrefillLayers = Annotated[
    int, typer.Option(help="Layers that prompt tokens pass; `sglang-speed cutoff` finds a number.")
]
AnchorTokens = Annotated[int, typer.Option(help="First prompt tokens that pass all layers.")]


def command_of(options: type[Options], run: Callable[[Options], None]) -> Callable[..., None]:
    """A command for typer, whose help is the docstring of `run`. A field that is a dataclass stands for its fields."""
    parameters = list(_parameters(options))

    def command(**values: Any) -> None:
        run(_filled(options, values))

    command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    command.__doc__ = run.__doc__
    return command


def _parameters(options: type) -> Iterator[Parameter]:
    for field, kind in _typed_fields(options):
        if _is_group(kind):
            yield from _parameters(kind)
        else:
            assert get_args(kind)[1:], f"{options.__name__}.{field.name} is neither an option nor an argument"
            default = Parameter.empty if field.default is MISSING else field.default
            yield Parameter(field.name, Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _filled(options: type[Options], values: dict[str, Any]) -> Options:
    given = {
        field.name: _filled(kind, values) if _is_group(kind) else values[field.name]
        for field, kind in _typed_fields(options)
    }
    return options(**given)


def _typed_fields(options: type) -> Iterator[tuple[Field[Any], Any]]:
    kinds = get_type_hints(options, include_extras=True)
    return ((field, kinds[field.name]) for field in fields(options))


def _is_group(kind: Any) -> bool:
    return is_dataclass(kind)
