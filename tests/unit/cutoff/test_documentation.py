"""docs/cutoff.md says what the committed results say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
RESULTS: dict[str, Any] = json.loads((ROOT / "benchmarks/results/cutoff_speed-llama.json").read_text(encoding="utf-8"))
BY_CUTOFF = {one["prefill_layers"]: one for one in RESULTS["cutoffs"]}
NO_CONTEXT_ROW = "not seen"


def rows_in_docs() -> list[list[str]]:
    lines = (ROOT / "docs/cutoff.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return [row for row in rows if row[0] not in ("prefill layers", "policy")]


CUTOFFS = [row for row in rows_in_docs() if not row[0].startswith("`")]
SETTINGS = [row for row in rows_in_docs() if row[0].startswith("`")]


@pytest.mark.parametrize("row", CUTOFFS, ids=lambda row: row[0])
def test_a_line_of_the_table_is_in_the_results(row: list[str]) -> None:
    cutoff = 0 if row[0] == NO_CONTEXT_ROW else int(row[0].split(",")[0])
    figures = BY_CUTOFF[cutoff]
    ceiling, divergence = figures["ceiling"], figures["divergence"]
    assert row[1:] == [
        "" if ceiling is None else f"{ceiling:.2f}x",
        f"{figures['loss']['value']:.3f}",
        f"{divergence['value']:.3f} ± {divergence['error']:.3f}",
        f"{figures['divergence_of_worst_tenth']:.3f}",
        f"{figures['agreement']['value']:.1%}",
    ]


@pytest.mark.parametrize("row", SETTINGS, ids=lambda row: f"{row[0]} {row[1]}")
def test_a_line_of_another_policy_is_in_the_results(row: list[str]) -> None:
    (figures,) = [
        one
        for one in RESULTS["settings"]
        if (f"`{one['series']}`", str(one["speed"]["prefill_layers"])) == (row[0], row[1])
    ]
    worst = max(figures["divergence_by_kind"].values(), key=lambda kind: kind["value"])
    assert row[2:] == [
        *(f"{figures[name]:.2f}x" for name in ("at_rest", "ttft")),
        *(f"{each['value']:.3f} ± {each['error']:.3f}" for each in (figures["divergence"], worst)),
        f"{figures['agreement']['value']:.1%}",
    ]


def test_the_table_names_the_recommendation() -> None:
    marked = {name: int(first.split(",")[0]) for first, *_ in CUTOFFS for name in first.split(", ")[1:]}
    advice = RESULTS["recommendation"]
    assert marked == {"without training": advice["untrained"], "with training": advice["trained"]}
