"""Grammars and regular expressions of users that must not end or block the scheduler.

Owns what counts as harmless. Compiles nothing.
"""

from __future__ import annotations

import json
import re._constants as constants  # type: ignore[import-not-found]
import re._parser as parser  # type: ignore[import-not-found]
from collections.abc import Iterator
from typing import Any

MAX_NESTING = 100
"""Levels of a JSON schema. xgrammar compiles by recursion: 400 take minutes, and 10000 overflow its stack."""
MAX_OPEN_REPEATS = 2
"""Repetitions in a row without an upper bound: with k of them, a search takes up to length^(k + 1) steps."""

_REPEATS = {constants.MAX_REPEAT, constants.MIN_REPEAT, constants.POSSESSIVE_REPEAT}


def require_compilable(name: str, grammar: str) -> None:
    """ValueError for a grammar that ends or blocks xgrammar 0.2, which compiles in the scheduler process.

    It ends with a segmentation fault at a regular expression that starts with NUL, in a schema's `pattern` too.
    """
    texts = [grammar] if name in ("regex", "ebnf") else list(_strings_of(name, _parsed(name, grammar)))
    if any(text.startswith("\0") for text in texts):
        raise ValueError(
            f"sglang_speed: {name} has a text that starts with NUL, which the grammar compiler cannot take"
        )


def require_bounded_search(name: str, pattern: str) -> None:
    """ValueError for a regular expression whose search can take time exponential in the text.

    SGLang searches the output after every token, in the scheduler, where nothing interrupts it.
    """
    if _open_repeats(parser.parse(pattern)) > MAX_OPEN_REPEATS:
        raise ValueError(
            f"sglang_speed: {name}={pattern[:100]!r} repeats what itself varies in length, or has more than "
            f"{MAX_OPEN_REPEATS} repetitions without an upper bound: its search could block the server; simplify it"
        )


def _parsed(name: str, grammar: str) -> Any:
    """A JSON value; None where there is none, which the grammar compiler then says."""
    try:
        return json.loads(grammar)
    except json.JSONDecodeError:
        return None
    except RecursionError as error:
        raise _too_deep(name) from error


def _strings_of(name: str, value: Any, depth: int = 0) -> Iterator[str]:
    if depth > MAX_NESTING:
        raise _too_deep(name)
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for part in (*value, *value.values()) if isinstance(value, dict) else value:
            yield from _strings_of(name, part, depth + 1)


def _too_deep(name: str) -> ValueError:
    return ValueError(f"sglang_speed: {name} is nested deeper than {MAX_NESTING} levels; flatten it")


def _open_repeats(sequence: Any) -> float:
    """How many open repetitions follow each other; infinite where something that varies is repeated."""
    return sum(_open_repeats_of(operator, value) for operator, value in sequence)


def _open_repeats_of(operator: Any, value: Any) -> float:
    if operator in _REPEATS:
        _, most, inner = value
        if most > 1 and any(_varies(*part) for part in inner):
            return float("inf")
        return _open_repeats(inner) + (most == constants.MAXREPEAT)
    return max(map(_open_repeats, _parts_of(operator, value)), default=0)


def _varies(operator: Any, value: Any) -> bool:
    """Whether the length of what matches can vary."""
    if operator is constants.BRANCH or (operator in _REPEATS and value[0] != value[1]):
        return True
    parts = [value[2]] if operator in _REPEATS else _parts_of(operator, value)
    return any(_varies(*inner) for part in parts for inner in part)


def _parts_of(operator: Any, value: Any) -> list[Any]:
    """The sequences inside of one that is not a repetition."""
    if operator is constants.BRANCH:
        return list(value[1])
    if operator is constants.ATOMIC_GROUP:
        return [value]
    if operator in (constants.SUBPATTERN, constants.ASSERT, constants.ASSERT_NOT):
        return [value[-1]]
    if operator is constants.GROUPREF_EXISTS:
        return [part for part in value[1:] if part is not None]
    return []
