"""Constrained answers: every grammar backend of SGLang's. Strict thinking needs xgrammar."""

from __future__ import annotations

from sglang_speed.features.base import Feature, Refusal

FEATURE = Feature(
    name="grammars",
    served=("--grammar-backend xgrammar, llguidance, outlines, none", "--reasoning-parser"),
    proof=("tests/server/platforms/test_grammar_backends.py",),
    refusals=(
        Refusal(
            "--enable-strict-thinking",
            lambda args: bool(args.enable_strict_thinking) and args.grammar_backend in ("llguidance", "outlines"),
            "with these grammar backends SGLang ends at the first request; --grammar-backend xgrammar can filter "
            "thoughts",
        ),
    ),
    note="outlines knows no EBNF, no structural tags and no list of types in a schema, on any device",
)
