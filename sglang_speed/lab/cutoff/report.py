"""The figures as tables and sentences for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from sglang_speed.lab.common.report import percent, times
from sglang_speed.lab.cutoff.advice import MOST_LOST, three_quarters
from sglang_speed.lab.cutoff.cutoffs import NO_CONTEXT
from sglang_speed.lab.cutoff.evidence import KIND_WORDS, lacking
from sglang_speed.lab.cutoff.results import GAINS, LONG_PROMPT

BUILT_IN = "answers of the model to built-in prompts"
HEADINGS = ("prefill layers", "ceiling", "loss", "KL", "±", "worst tenth", "same token", "prompt importance above")
CAPTION = (
    "per answer token, in nats; ceiling: highest gain of prefill and prompt KV; KL: from full depth, ± its standard "
    "error; worst tenth: one answer in ten has a higher KL; 0 layers: no token sees the prompt between anchors and tail"
)
SETTINGS_HEADINGS = ("at rest", "TTFT", "KL", "of the worst kind", "same token")
SETTINGS_CAPTION = (
    f"at rest: prompt tokens in the same KV memory, at most; TTFT: highest gain of a cold prompt of {LONG_PROMPT} "
    "tokens; KL: from full depth, ± its standard error, of the answers whose prompts are not deep from end to end"
)
GAIN_WORDS = {"at_rest": "memory at rest", "ttft": "time to the first token"}
KINDS_CAPTION = "KL by kind of request, ± its standard error; a request can be of several kinds"


def cutoffs_table(results: Mapping[str, Any]) -> Table:
    """A row for every cutoff, the recommended ones marked."""
    table = Table(caption=CAPTION)
    for heading in (*HEADINGS, ""):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=not heading)
    for figures in results["cutoffs"]:
        mark = mark_of(figures["prefill_layers"], results["recommendation"])
        table.add_row(*_cells(figures), mark, style="bold" if mark else "")
        if figures["prefill_layers"] == NO_CONTEXT:
            table.add_section()
    return table


def settings_table(results: Mapping[str, Any]) -> Table:
    """A row for every setting of another policy, the recommended ones marked."""
    table = Table(caption=SETTINGS_CAPTION)
    table.add_column("policy", no_wrap=True)
    table.add_column("layers", justify="right")
    for heading in (*SETTINGS_HEADINGS, ""):
        table.add_column(heading, justify="right" if heading else "left")
    recommended = {results["recommendation"][gain] for gain in GAINS}
    for one in results["settings"]:
        worst = max(
            one["divergence_by_kind"].values(), key=lambda kind: kind["value"] + 2 * kind["error"], default=None
        )
        mark = "without training" if one["label"] in recommended else ""
        table.add_row(
            one["series"],
            str(one["speed"]["prefill_layers"]),
            times(one["at_rest"]),
            times(one["ttft"]),
            "" if one["divergence"] is None else _with_error(one["divergence"]),
            "" if worst is None else _with_error(worst),
            "" if one["agreement"] is None else percent(one["agreement"]["value"]),
            mark,
            style="bold" if mark else "",
        )
    return table


def kinds_table(results: Mapping[str, Any]) -> Table:
    """The divergence by cutoff, with a column for each kind of request that was found."""
    table = Table("prefill layers", caption=KINDS_CAPTION)
    for kind in results["cutoffs"][0]["divergence_by_kind"]:
        table.add_column(f"{KIND_WORDS[kind]} ({results['evidence'][kind]['found']})", justify="right")
    for figures in results["cutoffs"]:
        estimates = figures["divergence_by_kind"].values()
        table.add_row(str(figures["prefill_layers"]), *map(_with_error, estimates))
    return table


def _with_error(estimate: Mapping[str, float]) -> str:
    return f"{estimate['value']:.4f} ± {estimate['error']:.4f}"


def mark_of(cutoff: int, recommendation: Mapping[str, Any]) -> str:
    """How a cutoff is recommended; empty if it is not."""
    marks = {recommendation["untrained"]: "without training", recommendation["trained"]: "with training"}
    return marks.get(cutoff, "")


def sentences(results: Mapping[str, Any]) -> Iterator[str]:
    """The recommendation, its rule and its limits; or the missing evidence."""
    missing = lacking(results["evidence"])
    if missing:
        yield f"no recommendation: {results['texts']['source']}: {', '.join(missing)}. {_fix(results['texts'])}"
        return
    yield _without_training(results)
    if results["settings"]:
        yield _of_all_policies(results)
    yield _with_training(results)


def _of_all_policies(results: Mapping[str, Any]) -> str:
    """Of all settings that the tolerance admits, those that gain most."""
    chosen = {words: results["recommendation"][gain] for gain, words in GAIN_WORDS.items()}
    found = {words: label for words, label in chosen.items() if label is not None}
    if not found:
        return "of all policies, without training: none"
    return "of all policies, without training: " + "; ".join(
        f"{label} saves most {words}" for words, label in found.items()
    )


def _without_training(results: Mapping[str, Any]) -> str:
    num_layers, recommendation = results["num_layers"], results["recommendation"]
    untrained, max_kl = recommendation["untrained"], recommendation["max_kl"]
    rule = f"the KL of every kind of request, two standard errors included, at {max_kl:g} or below"
    if untrained == num_layers:
        return f"without training: none; no cutoff below {num_layers} layers keeps {rule}"
    return f"without training: {_gain(untrained, num_layers)}; the lowest cutoff that keeps {rule} on these texts"


def _with_training(results: Mapping[str, Any]) -> str:
    num_layers, recommendation = results["num_layers"], results["recommendation"]
    untrained, trained = recommendation["untrained"], recommendation["trained"]
    lowest = three_quarters(num_layers)
    if untrained <= lowest:
        return f"with training: none; what a cutoff below 3/4 of the layers ({lowest}) needs is unknown"
    if trained is None:
        return (
            f"with training: none; no cutoff measured from 3/4 of the layers ({lowest}) to {untrained - 1} keeps the "
            f"KL of every kind of request at {MOST_LOST:g} times that of unseen prompts or below"
        )
    return (
        f"with training: {_gain(trained, num_layers)}; the lowest cutoff from 3/4 of the layers ({lowest}) on at "
        f"which the KL of every kind of request is at most {MOST_LOST:g} times that of unseen prompts. That training "
        "makes up for the rest is published for 3/4 of another model (Llama-3.1-8B), but unknown for this one: train, "
        "then judge with `sglang-speed eval`"
    )


def _fix(texts: Mapping[str, Any]) -> str:
    """How to get the missing evidence."""
    if texts["source"] == BUILT_IN:
        return (
            f"Raise --samples ({texts['samples']}) or --max-tokens ({texts['max_tokens']}), or give such chats with "
            "--data"
        )
    return (
        f"Give more such chats with --data, raise --samples ({texts['samples']}) or --max-tokens "
        f"({texts['max_tokens']}) if they exclude some, or omit --data"
    )


def _gain(cutoff: int, num_layers: int) -> str:
    return f"{cutoff} of {num_layers} layers, at most {times(num_layers / cutoff)}"


def _cells(figures: Mapping[str, Any]) -> tuple[str, ...]:
    divergence = figures["divergence"]
    return (
        str(figures["prefill_layers"]),
        times(figures["ceiling"]),
        f"{figures['loss']['value']:.3f}",
        f"{divergence['value']:.4f}",
        f"{divergence['error']:.4f}",
        f"{figures['divergence_of_worst_tenth']:.4f}",
        percent(figures["agreement"]["value"]),
        percent(figures["prompt_importance_above"]),
    )
