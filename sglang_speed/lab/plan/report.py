"""The plan as a table, as JSON and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sglang_speed.lab.plan.estimates import Estimate, Setup
from sglang_speed.lab.plan.options import PlanOptions

if TYPE_CHECKING:
    from rich.table import Table

CHANGED = "*"
"""Beside a number of deep tokens that the server would not choose by itself."""


def plan_table(setup: Setup, estimates: Sequence[Estimate]) -> Table:
    """One row for each policy and cutoff, beside full depth."""
    from rich import box
    from rich.table import Table

    full = estimates[0]
    table = Table(box=box.SIMPLE, padding=0, pad_edge=False)
    together = f"TPOT of\n{max(1, full.requests)}"
    headings = ("", "KiB a\ntoken", "prompt\ntokens", "deep\ntokens", "at\nonce", "\nTTFT", "TPOT\nof 1", together)
    for heading in headings:
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for each in estimates:
        table.add_row(
            each.name,
            f"{each.kv_bytes / 1024:.1f}",
            f"{each.prompt_tokens / 1000:,.0f}K{_times(each.prompt_tokens, full.prompt_tokens)}",
            f"{each.deep_tokens:,}{CHANGED * (not each.is_default)}",
            f"{each.requests}",
            *(f"{ratio:.2f}x" for ratio in (each.ttft, each.tpot, each.tpot_full)),
        )
    return table


def notes(setup: Setup, estimates: Sequence[Estimate]) -> list[str]:
    """What the figures mean, under the table."""
    said = [
        f"Requests of {setup.prompt_len:,} prompt tokens and {setup.answer_len:,} generated ones, at most "
        f"{setup.max_requests}; {setup.kv_budget / 2**30:.1f} GiB for KV on each of {setup.num_gpus} GPU(s).",
        "TTFT (of a cold prompt) and TPOT (of one request, and of as many as run at full depth): at most so many times "
        "faster than full depth, by arithmetic; `sglang-speed bench` measures. KiB: KV of a prompt token. At once: "
        "requests.",
    ]
    if not all(each.is_default for each in estimates):
        said.append(
            f"{CHANGED} set SGLANG_SPEED_DEEP_TOKENS to it: by default the deep band would be full first, and "
            "fewer requests would run at once."
        )
    return said


def plan_dict(options: PlanOptions, setup: Setup, estimates: Sequence[Estimate]) -> dict[str, Any]:
    """JSON-serializable values; the first estimate is full depth."""
    asked = {"model": options.model, "gpus": options.gpus, "prompt_len": setup.prompt_len}
    asked |= {"answer_len": setup.answer_len, "max_requests": setup.max_requests, "kv_budget_bytes": setup.kv_budget}
    return {"setup": asked, "estimates": [each.to_dict() for each in estimates]}


def draw_plan(estimates: Sequence[Estimate], path: Path) -> None:
    """Bars of what can be gained, full depth being 1."""
    from sglang_speed.lab.common.plots import DPI, make_page

    full, *others = estimates
    panels = {
        "prompt tokens in the KV memory": [each.prompt_tokens / full.prompt_tokens for each in others],
        "TTFT of a cold prompt, at most": [each.ttft for each in others],
        f"TPOT of {max(1, full.requests)} requests, at most": [each.tpot_full for each in others],
    }
    page, axes = make_page(1, len(panels), 4.2 * len(panels), 1.2 + 0.32 * len(others))
    for axis, (title, values) in zip(axes, panels.items(), strict=True):
        bars = axis.barh([each.name for each in others], values, color="#1b6ca8")
        axis.bar_label(bars, fmt="%.2fx", label_type="center", color="white")
        axis.axvline(1, color="#8c8c8c")
        axis.invert_yaxis()
        axis.set_title(title, fontsize=10)
        axis.grid(axis="y", visible=False)
    for axis in axes[1:]:
        axis.set_yticklabels([])
    page.savefig(path, dpi=DPI)


def _times(value: int, full: int) -> str:
    return f" ({value / full:.2f}x)" if full and value != full else ""
