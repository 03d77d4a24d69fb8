"""The results file as a table for the terminal and as a page that needs no other file.

Owns how a figure reads: its unit, its verdict, the sentence at the top and the legend. What was run is told by `facts`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from sglang_speed.lab.bench.facts import REHEARSAL, all_facts, described_depth, is_rehearsal, model_name
from sglang_speed.lab.common.report import percent, times

HEADINGS = ("", "stock SGLang", "SPEED", "ratio", "ceiling", "of ceiling", "target")
SHORT_LEGEND = (
    "medians ± half the range of the samples; ratio: times as fast, or as many, as stock; ceiling: what the arithmetic "
    "allows at most; Lc = L: prompts in all layers, in the column of SPEED"
)
LEGEND = (
    ("value ± x%", "the median of the samples, and half of their range; without ±, there is one sample"),
    ("ratio", "how many times faster than stock, or how many times more; below 1, SPEED is the worse one"),
    (
        "ceiling",
        "the ratio that the arithmetic allows at most: operations and bytes of both sides at the rates of this "
        "machine; they vary with the size, so that a ratio can come out a few percent above it",
    ),
    ("of ceiling", "the part of its ceiling that a ratio reached"),
    ("target", "the ratio that this project aims at; where there is none, the figure is for information"),
    (
        "Lc = L",
        "not SPEED but its code with prompts in all layers, in the column of SPEED: it computes what stock computes, "
        "and the ratio says what the plugin itself costs",
    ),
    ("TTFT, TPOT", "time to first token; time per output token after it"),
    ("working set", "all conversations of a chat together, as a multiple of what stock's pool holds"),
    ("hit rate", "the part of the prompt tokens that was found in the radix tree"),
)
QUESTIONS = {
    "prefill": "prompts that share nothing with the radix tree",
    "decode": "tokens after long prompts",
    "overhead": "what the plugin itself costs: Lc = L against stock",
    "capacity": "what fits in the same bytes of KV",
    "chat": "users who take turns",
    "tree": "agents with one system prompt act at the same time",
    "step": "the time of scheduler and launches, with a model of four tiny layers",
}
NO_GAINS = ("overhead", "step")
"""Scenarios that do not measure what SPEED makes of the compared model."""
TEMPLATE = Path(__file__).parent / "templates" / "report.html.j2"


@dataclass(frozen=True)
class Line:
    """A figure as text. verdict: met, missed, or nothing where there is no target."""

    cells: tuple[str, ...]
    target: str
    verdict: str


def line_of(figure: Mapping[str, Any]) -> Line:
    values = (with_spread(figure, side) for side in ("stock", figure["rival"]))
    ratios = (times(figure["ratio"], 3), times(figure["ceiling"], 3), percent(figure["share_of_ceiling"], 0))
    cells = (name_of(figure), *values, *ratios)
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
        table.add_column(heading, justify="right" if heading else "left")
    for name, scenario in scenarios.items():
        table.add_row(f"[bold]{name}[/]")
        for figure in scenario["figures"]:
            line = line_of(figure)
            style = {"met": "green", "missed": "red"}.get(line.verdict, "")
            table.add_row(*line.cells, f"[{style}]{line.target}[/]" if style else line.target)
        table.add_section()
    return table


def html_report(results: Mapping[str, Any], pictures: Sequence[Path]) -> str:
    """A page with the figures in a sentence, in a table and in pictures, and what was run."""
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
    """A PNG inside the page, as wide as makes its text the size of the page's."""
    from sglang_speed.lab.common.plots import DPI

    content = path.read_bytes()
    pixels = int.from_bytes(content[16:20])  # of the PNG's header
    return {"name": path.stem, "width": 100 * pixels // DPI, "data": base64.b64encode(content).decode()}


def headline(results: Mapping[str, Any]) -> str:
    """What an engineer wants to know first, in a sentence; of a rehearsal, that it says nothing."""
    if is_rehearsal(results):
        return REHEARSAL
    gains = gains_of(results)
    return f"{gains[0]}, for {model_name(results)}" if gains else f"no gain was measured of {model_name(results)}"


def further_gains(results: Mapping[str, Any]) -> list[str]:
    return [] if is_rehearsal(results) else gains_of(results)[1:]


def gains_of(results: Mapping[str, Any]) -> list[str]:
    """The headline of each scenario that says what the compared model gains."""
    headlines = (scenario for name, scenario in results["scenarios"].items() if name not in NO_GAINS)
    return [gain(one) for one in headlines if one["ratio"] is not None]


def gain(figure: Mapping[str, Any]) -> str:
    """For example: TTFT, 8192 tokens: 1.32x as fast as stock SGLang, of at most 1.33x."""
    how = "fast" if figure["unit"] == "s" else "many"
    said = f"{figure['figure']}: {times(figure['ratio'])} as {how} as stock SGLang"
    if figure["ceiling"] is None:
        return said
    is_above = round(figure["ratio"], 2) > round(figure["ceiling"], 2)
    return f"{said}, {'above its ceiling of' if is_above else 'of at most'} {times(figure['ceiling'])}"


def verdict(results: Mapping[str, Any]) -> str:
    """How many targets were met; nothing where there is none, as in a rehearsal."""
    figures = [figure for part in results["scenarios"].values() for figure in part["figures"]]
    judged = [figure["is_met"] for figure in figures if figure["is_met"] is not None]
    return f"{sum(judged)} of {len(judged)} targets met." if judged else ""


def name_of(figure: Mapping[str, Any]) -> str:
    """A figure's name, and who is compared with stock where that is not SPEED."""
    return f"{figure['figure']}, Lc = L" if figure["rival"] == "equal" else figure["figure"]


def with_spread(figure: Mapping[str, Any], side: str) -> str:
    spread = figure["spread"][side]
    return value_of(figure, side) if spread is None else f"{value_of(figure, side)} ± {percent(spread / 2)}"


def value_of(figure: Mapping[str, Any], side: str) -> str:
    """A median with its unit. Both sides of a time have the same one, and as many decimals."""
    value, unit = figure[side], figure["unit"]
    if unit == "share":
        return percent(value)
    if unit != "s":
        return f"{value:,.0f} {unit}".rstrip()
    larger = max(figure["stock"], figure[figure["rival"]])
    factor, unit = (1, "s") if larger >= 1 else (1000, "ms")
    return f"{value * factor:,.{decimals(larger * factor)}f} {unit}"


def decimals(value: float) -> int:
    """As many as leave four digits."""
    return next((digits for digits, limit in ((3, 10), (2, 100), (1, 1000)) if value < limit), 0)
