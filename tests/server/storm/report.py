"""What a storm did: counts, mismatches, memory, and the server's own counters before and after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from rich.table import Table

from tests.server.storm.examiner import Verdict
from tests.server.storm.questions import Outcome
from tests.server.storm.watch import late_growth

MAX_KEPT = 20
"""Mismatches and errors shown in words; all are counted."""
SAMPLES = ("rss_mib", "deep_usage")


@dataclass
class Report:
    """One round, or several added up.

    answers: per kind. tokens_*: prompt tokens, those of them that were cached, generated ones.
    tokens_compared: generated ones that the reference confirmed, but for `tokens_rounded`.
    counters: change of every number that the server counts (`speed` of /server_info, SGLang's totals).
    rss_mib, deep_usage: samples, see `Watch`.
    """

    answers: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    num_compared: int = 0
    num_exact: int = 0
    tokens_compared: int = 0
    tokens_rounded: int = 0
    tokens_prompt: int = 0
    tokens_cached: int = 0
    tokens_generated: int = 0
    retractions: int = 0
    num_retracted: int = 0
    mismatches: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    counters: Counter[str] = field(default_factory=Counter)
    rss_mib: list[float] = field(default_factory=list)
    deep_usage: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, outcome: Outcome, verdict: Verdict) -> None:
        """Count one outcome and what was found out about it."""
        self.answers[outcome.kind] += 1
        self.ends[outcome.end] += 1
        meta = outcome.meta
        self.tokens_prompt += meta.get("prompt_tokens", 0)
        self.tokens_cached += meta.get("cached_tokens", 0)
        self.tokens_generated += len(outcome.output_ids)
        self.retractions += meta.get("num_retractions", 0)
        self.num_retracted += bool(meta.get("num_retractions"))
        if not outcome.is_foreseen:
            self.errors.append(f"{outcome.kind} {outcome.end}: {outcome.words}")
        if verdict.mismatch:
            self.mismatches.append(verdict.mismatch)
        self.num_compared += bool(verdict.num_tokens) or bool(verdict.mismatch)
        self.num_exact += bool(verdict.num_tokens) and not verdict.num_rounded and not verdict.mismatch
        self.tokens_compared += verdict.num_tokens
        self.tokens_rounded += verdict.num_rounded

    def __iadd__(self, other: Report) -> Report:
        """Add a later round."""
        for each in fields(self):
            mine, others = getattr(self, each.name), getattr(other, each.name)
            if isinstance(mine, Counter):
                mine.update(others)  # a sum of counters would drop what is below zero
            else:
                setattr(self, each.name, mine + others)
        return self

    @property
    def num_answers(self) -> int:
        return self.answers.total()

    @property
    def hit_rate(self) -> float:
        return self.tokens_cached / max(1, self.tokens_prompt)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens_generated / max(1e-9, self.seconds)

    @property
    def is_clean(self) -> bool:
        return not self.mismatches and not self.errors

    def figures(self) -> dict[str, Any]:
        """Everything in JSON's types; samples as their range."""
        shown = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in SAMPLES}
        shown |= {"mismatches": self.mismatches[:MAX_KEPT], "errors": self.errors[:MAX_KEPT]}
        shown |= {"num_mismatches": len(self.mismatches), "num_errors": len(self.errors)}
        ranges = {name: [min(values), max(values)] for name in SAMPLES if (values := getattr(self, name))}
        rates = {"hit_rate": self.hit_rate, "tokens_per_second": self.tokens_per_second}
        return shown | ranges | rates | {"rss_late_growth_mib": late_growth(self.rss_mib)}

    def table(self, title: str) -> Table:
        """All figures, one a line."""
        table = Table("what", "how much", title=title, title_justify="left")
        for name, value in self.figures().items():
            table.add_row(name, _in_words(value))
        return table


def _in_words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_in_words(each)}" for name, each in sorted(value.items())) or "-"
    if isinstance(value, list):
        return "\n".join(_in_words(each) for each in value) or "none"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return str(value)
