"""Grammars of users that would end or block the scheduler, which compiles them.

Owns what counts as harmless. Compiles nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

MAX_NESTING = 100
"""Levels of a JSON schema. xgrammar compiles by recursion: 400 take minutes, and 10000 overflow its stack."""

MASK_FUNCTIONS = ("allocate_vocab_mask", "move_vocab_mask", "apply_vocab_mask")


def require_compilable(name: str, grammar: str) -> None:
    """ValueError for a grammar that ends or blocks xgrammar 0.2, which compiles in the scheduler process.

    It ends with a segmentation fault at a regular expression that starts with NUL, in a schema's `pattern` too.
    """
    texts = [grammar] if name in ("regex", "ebnf") else list(_strings_of(name, _parsed(name, grammar)))
    if any(text.startswith("\0") for text in texts):
        raise ValueError(
            f"sglang_speed: {name} has a text that starts with NUL, which the grammar compiler cannot take"
        )


def leave_masks_to_grammars(_: Any, __: Any, grammar_backend: Any, *args: Any, **kwargs: Any) -> None:
    """Hook after ReasonerGrammarBackend.__init__: a backend without functions for masks has none, instead of an error
    at every request. Their grammars have them, and the wrapper asks a grammar first.
    """
    for name in MASK_FUNCTIONS:
        if not hasattr(grammar_backend, name):
            setattr(grammar_backend, name, None)


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
