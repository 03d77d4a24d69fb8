"""The results file as a terminal table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.table import Table

PERPLEXITY_TARGET = 0.05
TASK_TARGET = 0.02
CAPTION = (
    "second lines: difference to full depth on the same items ± its standard error; perplexity: of full depth's "
    f"responses, and the ratio; green: within {PERPLEXITY_TARGET:.0%} of its perplexity or {100 * TASK_TARGET:.0f} "
    "points on a task, otherwise red"
)


@dataclass(frozen=True)
class Column:
    """faults: lower is better."""

    heading: str
    task: str
    metric: str
    faults: bool = False


COLUMNS = (
    Column("perplexity", "responses", "perplexity"),
    Column("agreement", "responses", "agreement"),
    Column("needle", "needle", "found"),
    Column("valid calls", "tools", "valid"),
    Column("right tool", "tools", "right_tool"),
    Column("right arguments", "tools", "right_arguments"),
    Column("invented tools", "tools", "invented", faults=True),
    Column("instructions", "instructions", "followed"),
    Column("recall", "recall", "recalled"),
    Column("long texts", "long", "answered"),
)


def terminal_table(results: Mapping[str, Any]) -> Table:
    """A row for each model, a column for each metric that was measured."""
    columns = [column for column in COLUMNS if any(column.task in model["tasks"] for model in results["models"])]
    table = Table(caption=CAPTION, show_lines=True)
    table.add_column("model")
    for column in columns:
        table.add_column(column.heading, justify="right")
    for model in in_order(results):
        table.add_row(model["label"], *(cell(model, column) for column in columns))
    return table


def in_order(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The models: full depth first, then by falling cutoff, name and tail."""

    def place(model: Mapping[str, Any]) -> tuple[bool, int, str, int]:
        speed = model["speed"] or {"prefill_layers": 0, "tail_tokens": 0}
        return model["speed"] is not None, -speed["prefill_layers"], model["name"], speed["tail_tokens"]

    return sorted(results["models"], key=place)


def cell(model: Mapping[str, Any], column: Column) -> str:
    """Rich markup; empty if not measured."""
    estimate = estimate_of(model, column.task, column.metric)
    if estimate is None:
        return ""
    if column.metric == "perplexity":
        return f"{estimate['value']:.3f}\n{_coloured(perplexity_ratio(estimate), is_close(estimate, column))}"
    text = f"{estimate['value']:.1%}"
    if column.metric == "agreement" or "difference" not in estimate:
        return f"{text}\n±{_points(estimate['stderr'])}"
    change = f"{100 * estimate['difference']:+.1f} ±{_points(estimate['difference_stderr'])}"
    return f"{text}\n{_coloured(change, is_close(estimate, column))}"


def estimate_of(model: Mapping[str, Any], task: str, metric: str) -> Mapping[str, Any] | None:
    if task not in model["tasks"]:
        return None
    return model["tasks"][task]["estimates"].get(metric)


def perplexity_ratio(estimate: Mapping[str, Any]) -> str:
    return f"x{estimate['ratio']:.3f} ±{estimate['ratio_stderr']:.3f}"


def is_close(estimate: Mapping[str, Any], column: Column) -> bool:
    """Whether the loss is within the target, its error ignored."""
    if column.metric == "perplexity":
        return bool(estimate["ratio"] <= 1 + PERPLEXITY_TARGET)
    loss = estimate["difference"] if column.faults else -estimate["difference"]
    return bool(loss <= TASK_TARGET)


def _coloured(text: str, is_good: bool) -> str:
    return f"[{'green' if is_good else 'red'}]{text}[/]"


def _points(stderr: float | None) -> str:
    return "?" if stderr is None else f"{100 * stderr:.1f}"
