"""The figures as a table and a few sentences for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from sglang_speed.layers.advice import MOST_LOST, usual_cutoff
from sglang_speed.layers.cutoffs import NO_CONTEXT

HEADINGS = ("prefill layers", "ceiling", "loss", "KL", "±", "worst tenth", "same token", "prompt importance above")
CAPTION = (
    "per response token, in nats; ceiling: prefill and prompt KV at most; KL: from full depth, ± its standard error; "
    "worst tenth: one response in ten has a higher KL; 0 layers: nobody sees the prompt between anchors and tail"
)


def layers_table(results: Mapping[str, Any]) -> Table:
    """A line for every cutoff, the recommended ones marked."""
    table = Table(caption=CAPTION)
    for heading in (*HEADINGS, ""):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=not heading)
    for figures in results["cutoffs"]:
        mark = mark_of(figures["prefill_layers"], results["recommendation"])
        table.add_row(*_cells(figures), mark, style="bold" if mark else "")
        if figures["prefill_layers"] == NO_CONTEXT:
            table.add_section()
    return table


def mark_of(cutoff: int, recommendation: Mapping[str, Any]) -> str:
    """Words for a recommended cutoff, nothing for another."""
    marks = {recommendation["untrained"]: "without training", recommendation["trained"]: "with training"}
    return marks.get(cutoff, "")


def sentences(results: Mapping[str, Any]) -> Iterator[str]:
    """What the recommendation is, by which rule, and what it does not say."""
    num_layers, recommendation = results["num_layers"], results["recommendation"]
    untrained, trained, max_kl = (recommendation[key] for key in ("untrained", "trained", "max_kl"))
    if untrained == num_layers:
        yield f"without training: none; no cutoff below {num_layers} layers keeps KL under {max_kl:g}"
    else:
        yield (
            f"without training: {_gain(untrained, num_layers)}; the lowest cutoff whose KL, two standard errors "
            f"included, is under {max_kl:g} on these texts"
        )
    usual = usual_cutoff(num_layers)
    if trained is not None:
        yield (
            f"with training: {_gain(trained, num_layers)}; the lowest cutoff from 3/4 of the layers ({usual}) on whose "
            f"KL is at most {MOST_LOST:g} times that of prompts that nobody sees. That training makes up for it is "
            "published for 3/4 of another model, and not known for this one: train, then judge"
        )
    else:
        yield (
            f"with training: nothing between 3/4 of the layers ({usual}) and {untrained} is left to recommend; lower "
            "cutoffs are untested here"
        )


def _gain(cutoff: int, num_layers: int) -> str:
    return f"{cutoff} of {num_layers} layers, at most {num_layers / cutoff:.2f}x"


def _cells(figures: Mapping[str, Any]) -> tuple[str, ...]:
    ceiling, divergence = figures["ceiling"], figures["divergence"]
    return (
        str(figures["prefill_layers"]),
        "" if ceiling is None else f"{ceiling:.2f}x",
        f"{figures['loss']['value']:.3f}",
        f"{divergence['value']:.4f}",
        f"{divergence['error']:.4f}",
        f"{figures['divergence_of_worst_tenth']:.4f}",
        f"{figures['agreement']['value']:.1%}",
        f"{figures['prompt_importance_above']:.1%}",
    )
