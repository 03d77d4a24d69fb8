"""Grammars and regular expressions of users that must not end or block the scheduler.

Owns what counts as harmless. Compiles nothing.
"""

from __future__ import annotations

import json
import math
import re._constants as constants  # type: ignore[import-not-found]
import re._parser as parser  # type: ignore[import-not-found]
from collections.abc import Iterator
from typing import Any

MAX_NESTING = 100
"""Levels of a JSON schema. xgrammar compiles by recursion: 400 take minutes, and 10000 overflow its stack."""
LONGEST = 100
"""What a repetition of more, or without an upper bound, counts as."""
MAX_WAYS = 20_000
"""Ways to match at one place: that many are tried where none fits. Two long repetitions in a row are within it."""
MAX_POWER = 30
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
    """ValueError for a regular expression whose search can take a time that nobody waits for.

    SGLang searches the output after every token, in the scheduler, where nothing interrupts it.
    """
    if _ways(parser.parse(pattern)) > MAX_WAYS:
        raise ValueError(
            f"sglang_speed: {name}={pattern[:100]!r} can match in more than {MAX_WAYS} ways, because it repeats what "
            "varies, or varies in too many places: its search could block the server; simplify it"
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


def _ways(sequence: Any) -> float:
    """In how many ways a sequence can match at one place, at most."""
    return math.prod(_ways_of(operator, value) for operator, value in sequence)


def _ways_of(operator: Any, value: Any) -> float:
    if operator is constants.BRANCH:
        return sum(map(_ways, value[1]))
    if operator in _REPEATS:
        least, most, inner = value
        most = min(most, LONGEST)
        ways = _ways(inner)
        # the power of what varies is over any limit long before it is over a float's
        return math.inf if ways > 1 and most > MAX_POWER else ways**most * (most - min(least, most) + 1)
    return math.prod(map(_ways, _parts_of(operator, value)))


def _parts_of(operator: Any, value: Any) -> list[Any]:
    """The sequences inside of one that is no repetition and no choice."""
    if operator is constants.ATOMIC_GROUP:
        return [value]
    if operator in (constants.SUBPATTERN, constants.ASSERT, constants.ASSERT_NOT):
        return [value[-1]]
    if operator is constants.GROUPREF_EXISTS:
        return [part for part in value[1:] if part is not None]
    return []
