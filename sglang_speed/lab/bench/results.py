"""From samples to figures: medians, spread, ratio, ceiling, and the share of it that was reached.

Plain Python; knows neither servers nor plots.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from sglang_speed.lab.bench.rivals import STOCK
from sglang_speed.policy_config import DEFAULT_POLICY


@dataclass(frozen=True)
class Figure:
    """A quantity that is measured on both sides.

    unit: "share" has no ratio. better: "lower" or "higher"; a ratio above 1 is a gain either way.
    rival: the side that is compared with stock.
    ceiling: the highest ratio that the arithmetic allows. target: the ratio aimed at.
    """

    scenario: str
    name: str
    unit: str
    ceiling: float | None = None
    target: float | None = None
    better: str = "lower"
    rival: str = DEFAULT_POLICY
    is_headline: bool = False

    def ratio(self, stock: float, rival: float) -> float | None:
        over, under = (stock, rival) if self.better == "lower" else (rival, stock)
        return None if self.unit == "share" or under == 0 else over / under


@dataclass(frozen=True)
class Sample:
    """One measurement of a figure. side: stock, or the figure's rival."""

    figure: Figure
    side: str
    value: float


@dataclass(frozen=True)
class Reading:
    """One measurement of a side. figures: of the quantity, by rival; stock's counts for each of them."""

    figures: Mapping[str, Figure]
    side: str
    value: float

    @property
    def samples(self) -> list[Sample]:
        return [
            Sample(one, self.side, self.value) for rival, one in self.figures.items() if self.side in (STOCK, rival)
        ]


@dataclass(frozen=True)
class Point:
    """One measurement for a plot. series: the plot; x, y: in its units."""

    series: str
    side: str
    x: float
    y: float


@dataclass(frozen=True)
class Row:
    """A figure with its samples, at least one per side."""

    figure: Figure
    stock: tuple[float, ...]
    rival: tuple[float, ...]

    @property
    def ratio(self) -> float | None:
        return self.figure.ratio(median(self.stock), median(self.rival))

    @property
    def share_of_ceiling(self) -> float | None:
        return None if self.ratio is None or self.figure.ceiling is None else self.ratio / self.figure.ceiling

    @property
    def is_met(self) -> bool | None:
        return None if self.ratio is None or self.figure.target is None else self.ratio >= self.figure.target

    def to_dict(self) -> dict[str, Any]:
        figure = self.figure
        return {
            "figure": figure.name,
            "unit": figure.unit,
            "better": figure.better,
            "rival": figure.rival,
            "is_headline": figure.is_headline,
            "stock": median(self.stock),
            figure.rival: median(self.rival),
            "spread": {"stock": spread(self.stock), figure.rival: spread(self.rival)},
            "ratio": self.ratio,
            "ceiling": figure.ceiling,
            "share_of_ceiling": self.share_of_ceiling,
            "target": figure.target,
            "is_met": self.is_met,
            "samples": {"stock": list(self.stock), figure.rival: list(self.rival)},
        }


def spread(values: Sequence[float]) -> float | None:
    """Range over median; None for a single sample."""
    return (max(values) - min(values)) / median(values) if len(values) > 1 and median(values) else None


def rows(samples: Iterable[Sample]) -> list[Row]:
    """A row for each figure with samples of both sides, in the order of the first samples."""
    by_figure: dict[Figure, dict[str, list[float]]] = {}
    for sample in samples:
        by_figure.setdefault(sample.figure, {}).setdefault(sample.side, []).append(sample.value)
    return [
        Row(figure, tuple(sides["stock"]), tuple(sides[figure.rival]))
        for figure, sides in by_figure.items()
        if {"stock", figure.rival} <= set(sides)
    ]


def by_scenario(table: Sequence[Row]) -> dict[str, Any]:
    """For the results file: all figures of each scenario, and the headline of its first rival."""
    scenarios: dict[str, Any] = {}
    for name in dict.fromkeys(row.figure.scenario for row in table):
        figures = [row.to_dict() for row in table if row.figure.scenario == name]
        headline = next(iter(headlines(figures)))
        shown = {
            key: headline[key] for key in ("figure", "unit", "stock", "ratio", "ceiling", "target", "is_met", "rival")
        }
        scenarios[name] = {**shown, "speed": headline[headline["rival"]], "figures": figures}
    return scenarios


def headlines(figures: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The main figure of a scenario, for each rival."""
    by_rival: dict[str, list[Mapping[str, Any]]] = {}
    for figure in figures:
        by_rival.setdefault(figure["rival"], []).append(figure)
    return [next((one for one in own if one.get("is_headline")), own[0]) for own in by_rival.values()]


def missed(scenarios: Mapping[str, Any]) -> list[str]:
    """Figures below their target, as text."""
    return [
        f"{name}, {figure['rival']}: {figure['figure']}: {figure['ratio']:.2f} of {figure['target']:.2f}"
        for name, scenario in scenarios.items()
        for figure in scenario["figures"]
        if figure["is_met"] is False
    ]
