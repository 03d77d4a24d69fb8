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
    return [row for row in rows if row[0] != "prefill layers"]


@pytest.mark.parametrize("row", rows_in_docs(), ids=lambda row: row[0])
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


def test_the_table_names_the_recommendation() -> None:
    marked = {name: int(first.split(",")[0]) for first, *_ in rows_in_docs() for name in first.split(", ")[1:]}
    advice = RESULTS["recommendation"]
    assert marked == {"without training": advice["untrained"], "with training": advice["trained"]}
