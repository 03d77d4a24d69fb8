"""Write the figures of docs/quality.md from the committed results of `sglang-speed eval`, and draw their plots.

python benchmarks/quality_figures.py            # after results/quality_*.json have changed
python benchmarks/quality_figures.py --check    # exit code 1 if the page differs from the results
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

from sglang_speed.config import SpeedConfig  # noqa: E402
from sglang_speed.lab.common.plots import DPI  # noqa: E402
from sglang_speed.lab.cutoff.results import gains_of  # noqa: E402
from sglang_speed.lab.evaluation.plots import by_cutoff  # noqa: E402
from sglang_speed.lab.evaluation.report import COLUMNS, Column, estimate_of, in_order, is_close, perplexity_ratio  # noqa: E402
from sglang_speed.method.cost import ModelShape  # noqa: E402
from sglang_speed.policy_config import Selection, ShortMessages  # noqa: E402

RESULTS = {
    "benchmarks/results/quality_headline.json": None,
    "benchmarks/results/quality_policies.json": "quality_policies.png",
    "benchmarks/results/quality_speed-llama.json": "quality.png",
}
"""Results files and the pictures that are drawn from them, if any."""
PAGE = ROOT / "docs" / "quality.md"
PICTURES = ROOT / "docs" / "figures"
SMOLLM2 = ModelShape(576, 1536, num_heads=9, num_kv_heads=3, head_dim=64, vocab_size=49152)


def main(check: bool = False) -> None:
    """Rewrite the text between the marks of the page."""
    for path, picture in RESULTS.items():
        results = json.loads((ROOT / path).read_text(encoding="utf-8"))
        write_figures(PAGE, path, figures(results), check=check)
        if picture is not None and not check:
            page = by_cutoff(results)
            assert page is not None, f"{path} has no model with a cutoff"
            page.savefig(PICTURES / picture, dpi=DPI)


def figures(results: Mapping[str, Any]) -> str:
    """A line for each model, a column for each measured metric, and where it was measured."""
    models = in_order(results)
    columns = [column for column in COLUMNS if any(estimate_of(model, column.task, column.metric) for model in models)]
    lines = [
        f"| model | at rest | TTFT | {' | '.join(column.heading for column in columns)} |",
        "|---" * (len(columns) + 3) + "|",
        *(
            f"| {model['label']} | {' | '.join([*gains(model), *(cell(model, column) for column in columns)])} |"
            for model in models
        ),
    ]
    return "\n".join([*lines, "", where(results)])


def gains(model: Mapping[str, Any]) -> tuple[str, str]:
    """The most that its bands gain in prompt tokens at rest, and in TTFT of a cold prompt of 8192 tokens."""
    if model["speed"] is None:
        return "", ""
    nested = {"selection": Selection, "messages": ShortMessages}
    parts = {key: nested[key](**value) for key, value in model["speed"].items() if key in nested and value}
    bands = SpeedConfig(**{**model["speed"], **parts})
    most = gains_of(SMOLLM2, bands)
    return f"{most['at_rest']:.2f}x", f"{most['ttft']:.2f}x"


def cell(model: Mapping[str, Any], column: Column) -> str:
    """The value, with the difference to full depth and its standard error, in bold beyond the target."""
    estimate = estimate_of(model, column.task, column.metric)
    if estimate is None:
        return ""
    if column.metric == "perplexity":
        return marked(perplexity_ratio(estimate), is_close(estimate, column))
    text = f"{estimate['value']:.1%}"
    if column.metric == "agreement" or "difference" not in estimate:
        return text
    change = f"{100 * estimate['difference']:+.1f} ±{100 * estimate['difference_stderr']:.1f}"
    return f"{text} ({marked(change, is_close(estimate, column))})"


def marked(text: str, is_good: bool) -> str:
    return text if is_good else f"**{text}**"


def where(results: Mapping[str, Any]) -> str:
    """The settings common to all models, and the machines."""
    runs, suite = results["runs"], results["suite"]
    machines = sorted({run["machine"]["gpu"] or run["machine"]["cpu"] for run in runs})
    commits = sorted({run["commit"][:7] for run in runs})
    return (
        f"Measured on {'; '.join(machines)}, commits {', '.join(commits)}: {suite['num_samples']} items of each task, "
        f"seed {suite['seed']}, server flags `{' '.join(suite['flags'])}`. In bold: further from full depth than 5% of "
        "its perplexity, or 2 points.\n"
    )


if __name__ == "__main__":
    typer.run(main)
