"""Write the README's figures from the committed results of `make bench`, and draw its pictures.

python benchmarks/readme_figures.py            # after results/bench_cpu.json has changed
python benchmarks/readme_figures.py --check    # exit code 1 where the README does not say what the results say
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from documents import write_figures  # noqa: E402

from sglang_speed.bench.plots import draw  # noqa: E402
from sglang_speed.bench.report import name_of, number, value_of  # noqa: E402

RESULTS = "benchmarks/results/bench_cpu.json"
README = ROOT / "README.md"
PICTURES = ROOT / "docs" / "figures"
DRAWN = ("ttft", "turns")
SHOWN = (
    ("prefill", "TTFT"),
    ("decode", "TPOT"),
    ("capacity", "prompt tokens in the pool"),
    ("capacity", "requests that run at once"),
    ("chat", "mean TTFT, working set 1.2x"),
    ("chat", "hit rate, working set 1.2x"),
    ("tree", "mean TTFT"),
    ("overhead", "T"),
    ("step", "decode step"),
)
"""Scenario, and how the names of its figures begin."""


def main(check: bool = False) -> None:
    """Rewrite what stands between the two marks in the README."""
    results = json.loads((ROOT / RESULTS).read_text(encoding="utf-8"))
    write_figures(README, RESULTS, figures(results), check=check)
    for path in draw(results, PICTURES):
        if path.stem not in DRAWN:
            path.unlink()


def figures(results: Mapping[str, Any]) -> str:
    """A line for each figure, and where it was measured."""
    machine, versions, speed = results["machine"], results["versions"], results["configuration"]["speed"]
    pool = results["configuration"]["sizes"]["cache_pool"]
    deep = (
        pool["deep_tokens"] * (speed["num_layers"] - speed["prefill_layers"]) / (pool["tokens"] * speed["num_layers"])
    )
    lines = ["| | stock SGLang | SPEED | ratio | ceiling | target |", "|---|---|---|---|---|---|"]
    lines += [line(figure) for scenario, begin in SHOWN for figure in figures_of(results, scenario, begin)]
    where = (
        f"Measured by `make bench` on {machine['gpu'] or machine['cpu']}, {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB: {described_model(results)}, prompts in {speed['prefill_layers']} of "
        f"{speed['num_layers']} layers, bfloat16, SGLang {versions['sglang']}, torch {versions['torch']}, commit "
        f"{results['commit'][:7]}. Medians; times in seconds; the range of the samples is in "
        "[the results](benchmarks/results/bench_cpu.json). SPEED's tokens are those with a deep band of "
        f"{pool['deep_tokens']} tokens, {deep:.1%} of the bytes; by default it has 6%."
    )
    return "\n".join([*lines, "", where, ""])


def described_model(results: Mapping[str, Any]) -> str:
    name = results["configuration"]["model"]
    return "a Llama of random weights" if name == "random" else name


def figures_of(results: Mapping[str, Any], scenario: str, begin: str) -> list[Mapping[str, Any]]:
    found = results["scenarios"].get(scenario, {}).get("figures", [])
    return [figure for figure in found if figure["figure"].startswith(begin)]


def line(figure: Mapping[str, Any]) -> str:
    target = ""
    if figure["target"] is not None:
        target = f"{figure['target']:.2f} {'met' if figure['is_met'] else '**missed**'}"
    ratio = "" if figure["ratio"] is None else f"**{figure['ratio']:.2f}**"
    values = (value_of(figure, side) for side in ("stock", figure["rival"]))
    cells = (name_of(figure), *values, ratio, number(figure["ceiling"], 2), target)
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    typer.run(main)
