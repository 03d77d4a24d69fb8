"""Plots of a comparison, drawn from the results file alone, so that a committed result can be drawn again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Page
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter

from sglang_speed.lab.bench.facts import (
    MIB,
    REHEARSAL,
    described_depth,
    is_rehearsal,
    kv_bytes,
    model_name,
    rivals_in,
    side_name,
)
from sglang_speed.lab.bench.rivals import STOCK
from sglang_speed.lab.common.plots import COLOURS, DPI, make_page

Series = Mapping[str, Sequence[tuple[float, float]]]
"""Side -> points."""

RIVAL_COLOURS = (COLOURS["speed"], "#c1562c", "#3f8f4f", "#8b5fa8", "#b8963e", "#5f6b75")
WIDTH, HEIGHT = 5.2, 3.8
HEAD_ROOM = 1.15
"""Upper limit of an axis as a multiple of the highest value."""
TITLE_SIZE, SUBTITLE_SIZE = 10.5, 8.5


def draw(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write a PNG for every plot with measured data; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, (needed, title, drawer) in PLOTS.items():
        found = {key: value for key, value in results["series"].items() if key.startswith(needed)}
        if found:
            page = drawer(found, results)
            page.suptitle(f"{title}\n{note(results)}", fontsize=TITLE_SIZE)
            path = folder / f"{name}.png"
            page.savefig(path, dpi=DPI)
            drawn.append(path)
    return drawn


def note(results: Mapping[str, Any]) -> str:
    """The second line of each title: the model, or that a rehearsal means nothing."""
    return REHEARSAL if is_rehearsal(results) else f"{model_name(results)}, {described_depth(results)}"


def by_context(found: Mapping[str, Series], results: Mapping[str, Any]) -> Page:
    """TTFT or TPOT by context length: a dot per sample, a line through the medians, and each rival at its
    ceiling."""
    (name, series), *_ = found.items()
    kind = name.split()[0]
    factor, unit = (1, "seconds") if kind == "TTFT" else (1000, "milliseconds")
    page, (axes,) = panels_of(1)
    scaled = {side: [(x, y * factor) for x, y in points] for side, points in series.items()}
    for side, points in scaled.items():
        style = style_of(side, results)
        axes.plot(*zip(*points, strict=True), ".", color=style["color"], alpha=0.4)
        axes.plot(*zip(*_medians(points), strict=True), "o-", **style)
    stock = dict(_medians(scaled[STOCK]))
    for rival in rivals_in(results):
        ceilings = _ceilings(results, kind, rival)
        lengths = sorted(set(ceilings) & set(stock))
        if len(lengths) > 1:
            style = style_of(rival, results) | {"label": f"{side_name(rival)} at its ceiling"}
            axes.plot(lengths, [stock[length] / ceilings[length] for length in lengths], ":", **style)
    axes.set(xlabel="prompt, tokens", ylabel=f"{kind}, {unit}", xlim=(0, None))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    leave_head_room(axes, scaled)
    axes.legend(frameon=False, loc="upper left")
    return page


def by_prompt(found: Mapping[str, Series], results: Mapping[str, Any]) -> Page:
    """A dot for each request of a run, by the length of its prompt."""
    (series,) = found.values()
    page, (axes,) = panels_of(1)
    for side, points in series.items():
        axes.plot(*zip(*points, strict=True), "o", alpha=0.6, **style_of(side, results))
    axes.set(xlabel="prompt, tokens", ylabel="TTFT, seconds", xlim=(0, None))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    leave_head_room(axes, series)
    axes.legend(frameon=False, loc="upper left")
    return page


def by_turn(found: Mapping[str, Series], results: Mapping[str, Any]) -> Page:
    """Hit rate (top) and TTFT (bottom), a column for each working set."""
    working_sets = sorted({name.rsplit(", ", 1)[1] for name in found}, key=float)
    page, grid = panels_of(2, len(working_sets))
    for column, working_set in enumerate(working_sets):
        upper, lower = grid[column], grid[column + len(working_sets)]
        for axes, kind in ((upper, "hit rate"), (lower, "TTFT")):
            series = results["series"][f"{kind} by turn, {working_set}"]
            for side, points in series.items():
                axes.plot(*zip(*points, strict=True), "o-", **style_of(side, results))
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            leave_head_room(axes, series)
        upper.set(ylim=(-0.05, HEAD_ROOM), title=f"conversations: {working_set}x stock's pool")
        upper.title.set_fontsize(SUBTITLE_SIZE)
        upper.yaxis.set_major_formatter(PercentFormatter(1))
        lower.set_xlabel("turn")
    grid[0].set_ylabel("hit rate of prompt tokens")
    grid[len(working_sets)].set_ylabel("mean TTFT, seconds")
    grid[len(working_sets)].legend(frameon=False, loc="lower left")
    return page


def over_time(found: Mapping[str, Series], results: Mapping[str, Any]) -> Page:
    """KV bytes in use over time, and the budget of each side."""
    page, grid = panels_of(1, len(found))
    budget = kv_bytes(results, results["configuration"]["sizes"]["cache_pool"]["tokens"]) / MIB
    for axes, (name, series) in zip(grid, sorted(found.items()), strict=True):
        for side, points in series.items():
            seconds, held = zip(*points, strict=True)
            axes.plot(seconds, [each / MIB for each in held], **style_of(side, results))
        axes.axhline(budget, color="black", linewidth=0.8, linestyle="--", label="budget of each")
        axes.set(xlabel="seconds", ylim=(0, budget * HEAD_ROOM))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        axes.set_title(f"conversations: {name.rsplit(', ', 1)[1]}x stock's pool", fontsize=SUBTITLE_SIZE)
    grid[0].set_ylabel("KV in use, MiB")
    grid[0].legend(frameon=False, loc="lower right")
    return page


Drawer = Callable[[Mapping[str, Series], Mapping[str, Any]], Page]
PLOTS: dict[str, tuple[str, str, Drawer]] = {
    "ttft": ("TTFT by context", "Time to first token of cold prompts", by_context),
    "tpot": ("TPOT by context", "Time per output token after a prompt, one request", by_context),
    "agents": ("TTFT of agents", "Time to first token of agents, one run", by_prompt),
    "turns": ("hit rate by turn", "A chat, turn by turn", by_turn),
    "kv": ("KV held", "KV in use while users chat", over_time),
}
"""File name -> prefix of the names of its series, title, drawing function."""


def panels_of(rows: int, columns: int = 1) -> tuple[Page, list[Axes]]:
    """A page sized by its number of panels."""
    return make_page(rows, columns, WIDTH * columns, HEIGHT * (1 + 0.7 * (rows - 1)))


def leave_head_room(axes: Axes, series: Series) -> None:
    """Let the y axis run from zero to above the highest value."""
    highest = max(value for points in series.values() for _, value in points)
    axes.set_ylim(0, highest * HEAD_ROOM or 1)


def style_of(side: str, results: Mapping[str, Any]) -> dict[str, Any]:
    """Colour and name of a side in all pictures."""
    rivals = list(rivals_in(results))
    colour = RIVAL_COLOURS[rivals.index(side) % len(RIVAL_COLOURS)] if side in rivals else COLOURS["stock"]
    return {"color": colour, "label": side_name(side)}


def _medians(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(x, median(value for at, value in points if at == x)) for x in sorted({x for x, _ in points})]


def _ceilings(results: Mapping[str, Any], kind: str, rival: str) -> dict[float, float]:
    """Ceilings of a rival by context length. kind: TTFT or TPOT."""
    scenario = {"TTFT": "prefill", "TPOT": "decode"}[kind]
    figures = results["scenarios"].get(scenario, {}).get("figures", [])
    found = {}
    for figure in figures:
        is_shown = "behind" not in figure["figure"] if kind == "TTFT" else figure["figure"].endswith("batch 1")
        if is_shown and figure["rival"] == rival and figure["ceiling"] is not None:
            length = next(int(word) for word in figure["figure"].split() if word.isdigit())
            found[float(length)] = figure["ceiling"]
    return found
