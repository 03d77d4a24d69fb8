"""The pictures of a comparison, drawn from the results file.

Owns colours and axes. Reads the JSON only, so that a committed result can be drawn again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Page
from matplotlib.ticker import MaxNLocator, PercentFormatter

Series = Mapping[str, Sequence[tuple[float, float]]]
"""Side -> points."""

COLOURS = {"stock": "#8c8c8c", "speed": "#1b6ca8"}
NAMES = {"stock": "stock SGLang", "speed": "SPEED"}
WIDTH, HEIGHT, DPI = 5.2, 3.4, 130
MIB = 2**20


def draw(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write a PNG for every plot whose figures were measured; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, (needed, drawer) in PLOTS.items():
        found = {key: value for key, value in results["series"].items() if key.startswith(needed)}
        if found:
            path = folder / f"{name}.png"
            drawer(found, results).savefig(path, dpi=DPI)
            drawn.append(path)
    return drawn


def by_context(found: Mapping[str, Series], results: Mapping[str, Any]) -> Page:
    """TTFT or TPOT against context length, every sample a dot, medians joined, and where the ceiling would be."""
    (name, series), *_ = found.items()
    page, (axes,) = make_page(1)
    ceilings = _ceilings(results, name.split()[0])
    for side, points in series.items():
        _dots_and_medians(axes, points, side)
    if len(ceilings) > 1:
        stock = dict(_medians(series["stock"]))
        lengths = sorted(set(ceilings) & set(stock))
        at_best = [stock[length] / ceilings[length] for length in lengths]
        axes.plot(lengths, at_best, ":", color=COLOURS["speed"], label="SPEED at its ceiling")
    axes.set(xlabel="context, tokens", ylabel=f"{name.split()[0]}, seconds", ylim=(0, None), xlim=(0, None))
    axes.legend(frameon=False)
    return page


def by_turn(found: Mapping[str, Series], results: Mapping[str, Any]) -> Page:
    """Hit rate above, TTFT below, a column for each working set."""
    working_sets = sorted({name.rsplit(", ", 1)[1] for name in found}, key=float)
    page, grid = make_page(2, len(working_sets))
    for column, working_set in enumerate(working_sets):
        for row, kind in enumerate(("hit rate", "TTFT")):
            axes = grid[row * len(working_sets) + column]
            for side, points in results["series"][f"{kind} by turn, {working_set}"].items():
                axes.plot(*zip(*points, strict=True), "o-", color=COLOURS[side], label=NAMES[side])
            axes.set(ylim=(0, 1.05 if row == 0 else None), ylabel=kind if row == 0 else "mean TTFT, seconds")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            if row == 0:
                axes.yaxis.set_major_formatter(PercentFormatter(1))
                axes.set_title(f"working set {working_set} x full-depth capacity", fontsize=9)
            else:
                axes.set_xlabel("turn")
    grid[0].legend(frameon=False)
    return page


def over_time(found: Mapping[str, Series], results: Mapping[str, Any]) -> Page:
    """KV bytes that hold something, against the bytes that both sides have."""
    page, grid = make_page(1, len(found))
    profile, shape = results["configuration"]["sizes"], results["configuration"]["shape"]
    layers = results["configuration"]["speed"]["num_layers"]
    budget = profile["cache_pool"]["tokens"] * layers * 2 * shape["num_kv_heads"] * shape["head_dim"]
    for axes, (name, series) in zip(grid, sorted(found.items()), strict=True):
        for side, points in series.items():
            seconds, held = zip(*points, strict=True)
            axes.plot(seconds, [each / MIB for each in held], color=COLOURS[side], label=NAMES[side])
        axes.axhline(
            budget * shape["kv_dtype_bytes"] / MIB, color="black", linewidth=0.8, linestyle="--", label="budget"
        )
        axes.set(xlabel="seconds", ylim=(0, None), title=f"working set {name.rsplit(', ', 1)[1]}")
        axes.title.set_fontsize(9)
    grid[0].set_ylabel("KV held, MiB")
    grid[0].legend(frameon=False)
    return page


def at_once(found: Mapping[str, Series], results: Mapping[str, Any]) -> Page:
    """Running requests while more are waiting than fit."""
    (series,) = found.values()
    page, (axes,) = make_page(1)
    for side, points in series.items():
        axes.step(*zip(*points, strict=True), where="post", color=COLOURS[side], label=NAMES[side])
    axes.set(xlabel="seconds", ylabel="requests that run", ylim=(0, None))
    axes.legend(frameon=False)
    return page


Drawer = Callable[[Mapping[str, Series], Mapping[str, Any]], Page]
PLOTS: dict[str, tuple[str, Drawer]] = {
    "ttft": ("TTFT by context", by_context),
    "tpot": ("TPOT by context", by_context),
    "turns": ("hit rate by turn", by_turn),
    "kv": ("KV held", over_time),
    "requests": ("requests at once", at_once),
}
"""File name -> the series it needs (by the beginning of their names), and who draws it."""


def make_page(rows: int, columns: int = 1) -> tuple[Page, list[Axes]]:
    """An empty page and its axes, row by row, in the style of all pictures."""
    page = Page(figsize=(WIDTH * columns, HEIGHT * (1 + 0.7 * (rows - 1))), layout="constrained")
    axes = page.subplots(rows, columns, squeeze=False)
    for one in axes.flat:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(alpha=0.25)
    return page, list(axes.flat)


def _dots_and_medians(axes: Axes, points: Sequence[tuple[float, float]], side: str) -> None:
    axes.plot(*zip(*points, strict=True), ".", color=COLOURS[side], alpha=0.4)
    axes.plot(*zip(*_medians(points), strict=True), "o-", color=COLOURS[side], label=NAMES[side])


def _medians(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(x, median(value for at, value in points if at == x)) for x in sorted({x for x, _ in points})]


def _ceilings(results: Mapping[str, Any], kind: str) -> dict[float, float]:
    """Ceiling by context length, of the figures whose name begins with the kind."""
    scenario = {"TTFT": "prefill", "TPOT": "decode"}[kind]
    figures = results["scenarios"].get(scenario, {}).get("figures", [])
    found = {}
    for figure in figures:
        length = next(int(word) for word in figure["figure"].split() if word.isdigit())
        if kind == "TTFT" or figure["figure"].endswith("batch 1"):
            found[float(length)] = figure["ceiling"]
    return found
