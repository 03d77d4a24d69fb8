"""The plot of a checkpoint's layers, drawn from the results alone, so that a committed result can be drawn again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from sglang_speed.lab.common.plots import COLOURS, DPI, make_page
from sglang_speed.lab.cutoff.cutoffs import NO_CONTEXT
from sglang_speed.lab.cutoff.evidence import KIND_WORDS

KIND_COLOURS = {"prompt": COLOURS["speed"], "response": COLOURS["stock"]}
KIND_NAMES = {"prompt": "prompt tokens that SPEED leaves out", "response": "tail and response tokens"}
KIND_STYLES = ("--", "-.", ":")
ADVICE_STYLES = {"untrained": ("-", "without training"), "trained": (":", "with training")}


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Write a PNG: importance by layer, and divergence by cutoff with the recommendation."""
    page, (left, right) = make_page(1, 2, width=10.4, height=3.8)
    _importance_by_layer(left, results["importance"])
    _divergence_by_cutoff(right, results)
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False, fontsize=8)
    page.savefig(path, dpi=DPI)


def _importance_by_layer(axes: Axes, importance: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    for kind, estimates in importance.items():
        # no token sees the last layer's prompt rows: their importance is 0, which has no logarithm
        shown = [(layer, one["value"], one["error"]) for layer, one in enumerate(estimates) if one["value"] > 0]
        _with_band(axes, shown, colour=KIND_COLOURS[kind], label=KIND_NAMES[kind])
    axes.set(xlabel="layer", ylabel="importance, nats per token", yscale="log")


def _divergence_by_cutoff(axes: Axes, results: Mapping[str, Any]) -> None:
    figures = {one["prefill_layers"]: one["divergence"] for one in results["cutoffs"]}
    no_context = figures.pop(NO_CONTEXT)["value"]
    shown = [(cutoff, one["value"], one["error"]) for cutoff, one in figures.items() if one["value"] > 0]
    _with_band(axes, shown, colour=COLOURS["speed"], label="untrained, by cutoff")
    _by_kind(axes, results["cutoffs"])
    axes.axhline(no_context, color=COLOURS["stock"], linestyle="--", label="prompt not seen")
    axes.axhline(results["recommendation"]["max_kl"], color="black", linewidth=0.8, linestyle="--", label="tolerance")
    for name, (style, words) in ADVICE_STYLES.items():
        cutoff = results["recommendation"][name]
        if cutoff is not None and cutoff < results["num_layers"]:
            axes.axvline(cutoff, color="#c0504d", linestyle=style, label=f"{words}: {cutoff} layers")
    axes.set(xlabel="prefill layers", ylabel="KL from full depth, nats per token", yscale="log")


def _by_kind(axes: Axes, cutoffs: Sequence[Mapping[str, Any]]) -> None:
    """A thin line for each kind of request, if the file has kinds."""
    for kind, style in zip(KIND_WORDS, KIND_STYLES, strict=True):
        found = [(one["prefill_layers"], one.get("divergence_by_kind", {}).get(kind)) for one in cutoffs]
        shown = [(cutoff, one["value"]) for cutoff, one in found if cutoff != NO_CONTEXT and one and one["value"] > 0]
        if shown:
            axes.plot(*zip(*shown, strict=True), style, linewidth=0.8, color=COLOURS["speed"], label=KIND_WORDS[kind])


def _with_band(axes: Axes, points: Sequence[tuple[int, float, float]], colour: str, label: str) -> None:
    """A line with a band of two standard errors. points: x, value, error; all values above 0."""
    if not points:
        return
    places, values, errors = zip(*points, strict=True)
    axes.plot(places, values, "o-", markersize=3, color=colour, label=label)
    low = [max(value - 2 * error, value / 10) for value, error in zip(values, errors, strict=True)]
    high = [value + 2 * error for value, error in zip(values, errors, strict=True)]
    axes.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
