"""The style of all plots. Needs no display."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure

DPI = 130
COLOURS = {"stock": "#8c8c8c", "speed": "#1b6ca8"}


def make_page(rows: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """An empty page and its panels, row by row. width, height: inches."""
    page = Figure(figsize=(width, height), layout="constrained")
    panels = list(page.subplots(rows, columns, squeeze=False).flat)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    return page, panels
