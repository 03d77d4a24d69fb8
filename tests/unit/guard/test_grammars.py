"""Which grammars count as harmless."""

from __future__ import annotations

import pytest

from sglang_speed.guard.grammars import require_compilable


@pytest.mark.parametrize(
    ("name", "grammar"),
    [
        ("regex", "(" * 1000),
        ("ebnf", 'root ::= "a"'),
        ("json_schema", "no JSON"),
        ("json_schema", '{"pattern": "[^\\\\u0000-\\\\u001f]"}'),
        ("json_schema", '{"items":' * 99 + "{}" + "}" * 99),
        ("structural_tag", '{"format": {"type": "any_text"}}'),
    ],
)
def test_a_grammar_that_can_be_compiled_or_is_merely_wrong_passes(name: str, grammar: str) -> None:
    require_compilable(name, grammar)


@pytest.mark.parametrize("levels", [101, 100_000])
def test_a_schema_that_is_nested_too_deeply_is_refused(levels: int) -> None:
    with pytest.raises(ValueError, match="json_schema is nested deeper than 100 levels"):
        require_compilable("json_schema", '{"items":' * levels + "{}" + "}" * levels)


@pytest.mark.parametrize(
    ("name", "grammar"),
    [("regex", "\0a"), ("json_schema", '{"pattern": "\\u0000"}'), ("json_schema", '{"properties": {"\\u0000": 1}}')],
)
def test_a_pattern_that_starts_with_nul_is_refused(name: str, grammar: str) -> None:
    with pytest.raises(ValueError, match=f"{name} has a text that starts with NUL"):
        require_compilable(name, grammar)
