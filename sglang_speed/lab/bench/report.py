"""The results file as a terminal table and as a self-contained HTML page.

Owns units, verdicts, the headline and the legend; `facts` describes the setup.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from sglang_speed.lab.bench.facts import (
    REHEARSAL,
    all_facts,
    described_depth,
    is_rehearsal,
    model_name,
    rivals_in,
    side_name,
)
from sglang_speed.lab.bench.results import headlines
from sglang_speed.lab.common.report import percent, times

HEADINGS = ("", "beside stock", "stock SGLang", "measured", "ratio", "ceiling", "of ceiling", "target")
SHORT_LEGEND = (
    "medians ± half the range of the samples; ratio: times as fast, or as many, as stock; ceiling: the most that the "
    "arithmetic allows; Lc = L: this package with prompts in all layers"
)
LEGEND = (
    ("value ± x%", "median and half the range of the samples; without ±, there is one sample"),
    ("ratio", "speed-up over stock, or how many times as many; below 1, it is worse than stock"),
    (
        "ceiling",
        "the highest ratio that the arithmetic allows: operations and bytes of both sides at this machine's rates; "
        "rates vary with the size, so a ratio can be a few percent above it",
    ),
    ("of ceiling", "ratio divided by ceiling"),
    ("target", "the ratio that this project aims at; figures without one are for information"),
    (
        "Lc = L",
        "this package's code with prompts in all layers: it computes what stock computes, so the ratio is the cost of "
        "the plugin itself",
    ),
    ("TTFT, TPOT", "time to first token; time per output token after it"),
    ("working set", "all conversations of a chat together, as a multiple of stock's pool"),
    ("hit rate", "share of the prompt tokens found in the radix tree"),
)
QUESTIONS = {
    "prefill": "cold prompts",
    "decode": "decoding after long prompts",
    "overhead": "the cost of the plugin itself: Lc = L against stock",
    "capacity": "what fits in the same bytes of KV",
    "chat": "several users in multi-turn chats",
    "tree": "concurrent agents with a common system prompt",
    "agents": "agents that call tools, each in a conversation of its own",
    "step": "scheduler and kernel launches, with a model of four tiny layers",
}
NO_GAINS = ("overhead", "step")
"""Scenarios that do not measure a gain of the compared model."""
TEMPLATE = Path(__file__).parent / "templates" / "report.html.j2"


@dataclass(frozen=True)
class Line:
    """A figure as text. verdict: met, missed, or empty without a target."""

    cells: tuple[str, ...]
    target: str
    verdict: str


def line_of(figure: Mapping[str, Any]) -> Line:
    values = (with_spread(figure, side) for side in ("stock", figure["rival"]))
    ratios = (times(figure["ratio"], 3), times(figure["ceiling"], 3), percent(figure["share_of_ceiling"], 0))
    rival = ", ".join(part.strip() for part in side_name(figure["rival"]).split(","))
    cells = (figure["figure"], rival, *values, *ratios)
    if figure["target"] is None:
        return Line(cells, "", "")
    verdict = "met" if figure["is_met"] else "missed"
    return Line(cells, f"{times(figure['target'], 3)} {verdict}", verdict)


def terminal_table(results: Mapping[str, Any]) -> Table:
    return figures_table(results["scenarios"], headline(results))


def figures_table(scenarios: Mapping[str, Any], title: str) -> Table:
    """A section for each scenario of a results file."""
    table = Table(title=title, caption=SHORT_LEGEND)
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading in HEADINGS[:2] else "right", overflow="fold")
    for name, scenario in scenarios.items():
        table.add_row(f"[bold]{name}[/]")
        for figure in scenario["figures"]:
            line = line_of(figure)
            style = {"met": "green", "missed": "red"}.get(line.verdict, "")
            table.add_row(*line.cells, f"[{style}]{line.target}[/]" if style else line.target)
        table.add_section()
    return table


def html_report(results: Mapping[str, Any], pictures: Sequence[Path]) -> str:
    """A page with headline, table, plots and setup."""
    from jinja2 import Environment, FileSystemLoader

    template = Environment(loader=FileSystemLoader(TEMPLATE.parent), autoescape=True).get_template(TEMPLATE.name)
    tables = [
        (name, QUESTIONS[name], [line_of(one) for one in part["figures"]])
        for name, part in results["scenarios"].items()
    ]
    return template.render(
        headline=headline(results),
        is_rehearsal=is_rehearsal(results),
        further=further_gains(results),
        verdict=verdict(results),
        model=model_name(results),
        depth=described_depth(results),
        machine=results["machine"],
        versions=results["versions"],
        headings=HEADINGS,
        tables=tables,
        legend=LEGEND,
        pictures=[picture_of(path) for path in pictures],
        facts=all_facts(results),
    )


def picture_of(path: Path) -> dict[str, Any]:
    """A PNG inside the page, scaled so that its text has the page's text size."""
    from sglang_speed.lab.common.plots import DPI

    content = path.read_bytes()
    pixels = int.from_bytes(content[16:20])  # of the PNG's header
    return {"name": path.stem, "width": 100 * pixels // DPI, "data": base64.b64encode(content).decode()}


def headline(results: Mapping[str, Any]) -> str:
    """The main gain in a sentence; for a rehearsal, that figures mean nothing."""
    if is_rehearsal(results):
        return REHEARSAL
    gains = gains_of(results)
    return f"{gains[0]}, for {model_name(results)}" if gains else f"no gain was measured of {model_name(results)}"


def further_gains(results: Mapping[str, Any]) -> list[str]:
    return [] if is_rehearsal(results) else gains_of(results)[1:]


def gains_of(results: Mapping[str, Any]) -> list[str]:
    """The headlines of each scenario that measures a gain, with the rival's name where there are several."""
    parts = [part["figures"] for name, part in results["scenarios"].items() if name not in NO_GAINS]
    found = [one for figures in parts for one in headlines(figures) if one["ratio"] is not None]
    named = len(rivals_in(results)) > 1
    return [f"{side_name(one['rival'])}: {gain(one)}" if named else gain(one) for one in found]


def gain(figure: Mapping[str, Any]) -> str:
    """For example: TTFT, 8192 tokens: 1.32x as fast as stock SGLang, of at most 1.33x."""
    how = "fast" if figure["unit"] == "s" else "many"
    said = f"{figure['figure']}: {times(figure['ratio'])} as {how} as stock SGLang"
    if figure["ceiling"] is None:
        return said
    is_above = round(figure["ratio"], 2) > round(figure["ceiling"], 2)
    return f"{said}, {'above its ceiling of' if is_above else 'of at most'} {times(figure['ceiling'])}"


def verdict(results: Mapping[str, Any]) -> str:
    """How many targets were met; empty without targets, as in a rehearsal."""
    figures = [figure for part in results["scenarios"].values() for figure in part["figures"]]
    judged = [figure["is_met"] for figure in figures if figure["is_met"] is not None]
    return f"{sum(judged)} of {len(judged)} targets met." if judged else ""


def name_of(figure: Mapping[str, Any]) -> str:
    """A figure's name, and `Lc = L` if that is compared instead of SPEED."""
    return f"{figure['figure']}, Lc = L" if figure["rival"] == "equal" else figure["figure"]


def with_spread(figure: Mapping[str, Any], side: str) -> str:
    spread = figure["spread"][side]
    return value_of(figure, side) if spread is None else f"{value_of(figure, side)} ± {percent(spread / 2)}"


def value_of(figure: Mapping[str, Any], side: str) -> str:
    """A median with its unit. Both sides of a time have the same unit and decimals."""
    value, unit = figure[side], figure["unit"]
    if unit == "share":
        return percent(value)
    if unit != "s":
        digits = 0 if value >= 10 or float(value).is_integer() else 2
        return f"{value:,.{digits}f} {unit}".rstrip()
    larger = max(figure["stock"], figure[figure["rival"]])
    factor, unit = (1, "s") if larger >= 1 else (1000, "ms")
    return f"{value * factor:,.{decimals(larger * factor)}f} {unit}"


def decimals(value: float) -> int:
    """Decimals for four significant digits."""
    return next((digits for digits, limit in ((3, 10), (2, 100), (1, 1000)) if value < limit), 0)
