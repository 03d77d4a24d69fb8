"""The results file as a table for the terminal and as a page that needs no other file."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

HEADINGS = ("", "stock", "±", "SPEED", "±", "ratio", "ceiling", "of it", "target")
CAPTION = (
    "times in seconds; a ratio above 1 is a gain; ceiling: what the arithmetic allows at most; ±: half the range of "
    "the samples; figures named `Lc = L` have that in the column of SPEED"
)
TEMPLATE = Path(__file__).parent / "templates" / "report.html.j2"


@dataclass(frozen=True)
class Line:
    """A figure as text. verdict: met, missed, or nothing where there is no target."""

    cells: tuple[str, ...]
    target: str
    verdict: str


def line_of(figure: Mapping[str, Any]) -> Line:
    cells = [name_of(figure)]
    for side in ("stock", figure["rival"]):
        cells += [value_of(figure, side), percent(figure["spread"][side], half=True)]
    cells += [number(figure["ratio"], 3), number(figure["ceiling"], 3), percent(figure["share_of_ceiling"])]
    if figure["target"] is None:
        return Line(tuple(cells), "", "")
    verdict = "met" if figure["is_met"] else "missed"
    return Line(tuple(cells), f"{figure['target']:.3f} {verdict}", verdict)


def terminal_table(results: Mapping[str, Any]) -> Table:
    """The figures, a section for each scenario."""
    table = Table(caption=CAPTION)
    for heading in HEADINGS:
        table.add_column(heading, justify="right" if heading else "left")
    for name, scenario in results["scenarios"].items():
        table.add_row(f"[bold]{name}[/]")
        for figure in scenario["figures"]:
            line = line_of(figure)
            style = {"met": "green", "missed": "red"}.get(line.verdict, "")
            table.add_row(*line.cells, f"[{style}]{line.target}[/]" if style else line.target)
        table.add_section()
    return table


def html_report(results: Mapping[str, Any], pictures: Sequence[Path]) -> str:
    """A page with the table, the pictures inside, and the configuration."""
    from jinja2 import Environment, FileSystemLoader

    template = Environment(loader=FileSystemLoader(TEMPLATE.parent), autoescape=True).get_template(TEMPLATE.name)
    tables = [(name, [line_of(one) for one in part["figures"]]) for name, part in results["scenarios"].items()]
    shown = [{"name": path.stem, "data": base64.b64encode(path.read_bytes()).decode()} for path in pictures]
    return template.render(
        {key: results[key] for key in ("commit", "uncommitted_changes", "machine", "versions")},
        speed=results["configuration"]["speed"],
        tables=tables,
        pictures=shown,
        configuration=json.dumps(results["configuration"], indent=1),
    )


def name_of(figure: Mapping[str, Any]) -> str:
    """A figure's name, and who is compared with stock where that is not SPEED."""
    return f"{figure['figure']}, Lc = L" if figure["rival"] == "equal" else figure["figure"]


def value_of(figure: Mapping[str, Any], side: str) -> str:
    """A median as text, by the figure's unit."""
    value = figure[side]
    if figure["unit"] == "share":
        return percent(value)
    return number(value) if figure["unit"] == "s" else f"{value:,.0f}"


def number(value: float | None, digits: int = 4) -> str:
    if value is None:
        return ""
    return f"{value:.{digits}f}" if abs(value) < 100 else f"{value:,.0f}"


def percent(value: float | None, half: bool = False) -> str:
    if value is None:
        return ""
    return f"{100 * value / (2 if half else 1):.1f}%"
