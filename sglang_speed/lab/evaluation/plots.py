"""Plots of a results file: quality by cutoff, and the grid of needles.

Reads the JSON only, so that a committed result can be drawn again.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Page
from matplotlib.ticker import PercentFormatter, StrMethodFormatter

from sglang_speed.lab.common.plots import DPI, make_page
from sglang_speed.lab.evaluation.report import COLUMNS, Column, estimate_of, in_order

WIDTH, HEIGHT = 3.6, 2.9
COLUMNS_OF_PANELS = 3
DODGE, MOST = 0.08, 0.7
"""Horizontal distance, in layers, between two series at one cutoff, and of all of them together."""
MARKERS, NUM_COLORS = "osD^v", 10
"""The next marker when matplotlib's colours begin again."""
WIDE = 2.0
"""Ratios of perplexity above this are drawn on a logarithmic axis."""
LINE: dict[str, Any] = {"markersize": 4, "capsize": 2, "linewidth": 1.2}
CUTOFF = re.compile(r", (\d+)(?: and \d+)* of \d+")
"""In the label of a model, e.g. of `pop, 22 of 30, tail 1`."""
Model = Mapping[str, Any]


def draw(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write a PNG for every plot with data; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    pages = {"quality": by_cutoff(results), "needle": by_cell(results)}
    drawn = []
    for name, page in pages.items():
        if page is not None:
            page.savefig(folder / f"{name}.png", dpi=DPI)
            drawn.append(folder / f"{name}.png")
    return drawn


def by_cutoff(results: Mapping[str, Any]) -> Page | None:
    """A panel for each metric: a line for each series and tail over prefill layers, full depth as a horizontal line."""
    shown = [column for column in COLUMNS if any(column.task in model["tasks"] for model in results["models"])]
    if not shown or all(layers_of(model) is None for model in results["models"]):
        return None
    page, panels = panels_of(len(shown), room_below=0.5 + 0.06 * len(series(results, shown[0])))
    for axes, column in zip(panels, shown, strict=False):
        _metric(axes, results, column)
    handles = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    page.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False)
    return page


def by_cell(results: Mapping[str, Any]) -> Page | None:
    """A heat map for each model: the share of needles found, by length and depth."""
    models = [model for model in in_order(results) if "needle" in model["tasks"]]
    if not models:
        return None
    page, panels = panels_of(len(models))
    for axes, model in zip(panels, models, strict=False):
        _grid(axes, model)
    return page


def panels_of(num: int, room_below: float = 0.0) -> tuple[Page, list[Axes]]:
    """A page with at least `num` panels; surplus ones are hidden. room_below: inches."""
    columns = min(num, COLUMNS_OF_PANELS)
    rows = math.ceil(num / columns)
    page, panels = make_page(rows, columns, WIDTH * columns, HEIGHT * rows + room_below)
    for axes in panels[num:]:
        axes.set_axis_off()
    return page, panels


def _metric(axes: Axes, results: Mapping[str, Any], column: Column) -> None:
    """Perplexity is drawn as its ratio to full depth."""
    all_series = series(results, column)
    dodge = min(DODGE, MOST / len(all_series))
    for index, (name, points) in enumerate(all_series.items()):
        if not points:
            continue
        layers, values, errors = zip(*sorted(points), strict=True)
        places = [layer + dodge * (index - (len(all_series) - 1) / 2) for layer in layers]
        marker = MARKERS[index // NUM_COLORS % len(MARKERS)]
        axes.errorbar(places, values, yerr=errors, color=f"C{index}", marker=marker, label=name, **LINE)
    for model in results["models"]:
        estimate = estimate_of(model, column.task, column.metric)
        if layers_of(model) is None and estimate is not None:
            value = estimate.get("ratio", estimate["value"])
            axes.axhline(value, color="black", linestyle="--", linewidth=0.8, label=model["label"])
    is_perplexity = column.metric == "perplexity"
    axes.set_title("perplexity / full depth's" if is_perplexity else column.heading, fontsize=9)
    axes.set_xlabel("prefill layers", fontsize=8)
    cutoffs = sorted({each for model in results["models"] if (each := layers_of(model)) is not None})
    axes.set(xticks=cutoffs, xlim=(cutoffs[0] - 1, cutoffs[-1] + 1))
    if is_perplexity and axes.get_ylim()[1] > WIDE:
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    if not is_perplexity:
        axes.yaxis.set_major_formatter(PercentFormatter(1))


def series(results: Mapping[str, Any], column: Column) -> dict[str, list[tuple[int, float, float]]]:
    """By label without its cutoff: measured (prefill layers, value, standard error of the difference to full depth).
    All columns have the same keys in the same order, which gives the colours."""
    found: dict[str, list[tuple[int, float, float]]] = {}
    for model in sorted(in_order(results), key=lambda model: str(model["label"])):
        layers = layers_of(model)
        if layers is not None:
            points = found.setdefault(CUTOFF.sub("", model["label"]), [])
            estimate = estimate_of(model, column.task, column.metric)
            if estimate is not None:
                points.append((layers, *value_and_error(estimate)))
    return found


def layers_of(model: Model) -> int | None:
    """Prefill layers, or those of a pruned model whose name says so; None for a model at full depth."""
    if model["speed"] is not None:
        return int(model["speed"]["prefill_layers"])
    named = CUTOFF.search(model["label"])
    return None if named is None else int(named[1])


def value_and_error(estimate: Mapping[str, Any]) -> tuple[float, float]:
    """An unknown error is nan, which is not drawn."""
    error = estimate.get("ratio_stderr", estimate.get("difference_stderr"))
    return estimate.get("ratio", estimate["value"]), math.nan if error is None else error


def _grid(axes: Axes, model: Model) -> None:
    axes.grid(visible=False)
    axes.spines[:].set_visible(True)
    cells = {(cell["words"], cell["depth"]): cell["found"] for cell in model["tasks"]["needle"]["groups"]}
    lengths, depths = (sorted({key[axis] for key in cells}) for axis in (0, 1))
    shares = [[cells.get((length, depth), math.nan) for length in lengths] for depth in depths]
    axes.imshow(shares, vmin=0, vmax=1, cmap="RdYlGn", aspect="auto")
    for row, shares_of_depth in enumerate(shares):
        for column, share in enumerate(shares_of_depth):
            text = "" if math.isnan(share) else f"{share:.0%}"
            axes.text(column, row, text, ha="center", va="center", fontsize=7)
    axes.set_xticks(range(len(lengths)), [str(length) for length in lengths], fontsize=7)
    axes.set_yticks(range(len(depths)), [f"{depth:.0%}" for depth in depths], fontsize=7)
    axes.set_xlabel("words", fontsize=8)
    axes.set_ylabel("depth of the needle", fontsize=8)
    axes.set_title(model["label"], fontsize=9)
