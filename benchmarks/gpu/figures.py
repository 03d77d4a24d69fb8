"""From samples to a table: medians, the ratio of stock to SPEED, and the ceiling beside it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from contenders import Contender, Profile, contenders, fitting, prompt_tokens

from sglang_speed.config import SpeedConfig
from sglang_speed.method.cost import Rates, extend_of, step_floor, ttft_floor

Samples = Mapping[str, Sequence[float]]
"""Contender -> samples of one figure, from all of its starts."""


@dataclass(frozen=True)
class Row:
    """One figure. best: what the arithmetic allows on this machine. gain: how much better SPEED is than stock;
    ceiling: how much better it can be at most. equal: the gain of `Lc = L`, which should be 1. target: of the gain."""

    figure: str
    medians: dict[str, float]
    spreads: dict[str, float]
    best: dict[str, float]
    gain: float | None
    ceiling: float | None
    equal: float | None
    target: float | None

    @property
    def is_met(self) -> bool | None:
        return None if self.gain is None or self.target is None else self.gain >= self.target


def rows(samples: Iterable[Mapping[str, Any]], profile: Profile, stock_requests: int, rates: Rates) -> list[Row]:
    figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for sample in samples:
        figures[sample["figure"]][sample["contender"]].append(sample["value"])
    named = contenders(profile)
    ours = {name: _Machine(one, profile, stock_requests, rates) for name, one in named.items()}
    return [_row(name, values, ours) for name, values in figures.items()]


def as_json(row: Row) -> dict[str, Any]:
    return {**asdict(row), "is_met": row.is_met}


def _row(figure: str, samples: Samples, machines: Mapping[str, _Machine]) -> Row:
    medians = {name: median(values) for name, values in samples.items()}
    spreads = {name: (max(values) - min(values)) / medians[name] for name, values in samples.items()}
    best = {name: machine.best(figure) for name, machine in machines.items()}
    known = {name: value for name, value in best.items() if value is not None}
    ceiling = _gain(figure, known, "speed")
    target = _target(figure, ceiling)
    gain, equal = _gain(figure, medians, "speed"), _gain(figure, medians, "equal")
    return Row(figure, medians, spreads, known, gain, ceiling, equal, target)


def _gain(figure: str, values: Mapping[str, float], name: str) -> float | None:
    if "stock" not in values or name not in values:
        return None
    is_time = figure.startswith(("TTFT", "TPOT", "seconds"))
    return values["stock"] / values[name] if is_time else values[name] / values["stock"]


def _target(figure: str, ceiling: float | None) -> float | None:
    """TTFT and prompt tokens: 1.30 where four thirds are possible; TPOT: 95% of the ceiling."""
    if ceiling is None or figure.startswith(("seconds", "TTFT of a hit", "requests", "output")):
        return None
    return 0.95 * ceiling if figure.startswith("TPOT") else 0.975 * ceiling


class _Machine:
    """What the arithmetic allows one contender."""

    def __init__(self, contender: Contender, profile: Profile, stock_requests: int, rates: Rates) -> None:
        self.config: SpeedConfig = contender.config(profile)
        self.profile = profile
        self.rates = rates
        self.num_tokens = prompt_tokens(contender, profile, stock_requests)
        kv_bytes = profile.kv_bytes(stock_requests)
        self.ideal_tokens = kv_bytes / (self.config.prefill_layers * profile.shape.kv_bytes_per_layer)

    def best(self, figure: str) -> float | None:
        """None where no arithmetic bounds a figure."""
        kind, _, rest = figure.partition(", ")
        length = int(rest.split(",")[0]) if rest[:1].isdigit() else 0
        match kind:
            case "TTFT":
                return self._ttft(length, 0)
            case "TTFT of a hit":
                return self._ttft(length + self.profile.follow_up_len - 1, length)
            case "TPOT":
                return self._step(length, self._batch(figure, length))
            case "output tokens/s" if length:
                batch = fitting(self.num_tokens, length)
                return batch / self._step(length, batch)
            case "prompt tokens":
                return self.ideal_tokens
            case "requests at once":
                return float(fitting(int(self.ideal_tokens), length))
        return None

    def _ttft(self, prompt_len: int, cached_len: int) -> float:
        extend = extend_of(self.config, prompt_len, cached_len)
        return ttft_floor(self.profile.shape, self.config, extend, self.rates)

    def _batch(self, figure: str, length: int) -> int:
        words = figure.rsplit("batch ", 1)
        return int(words[1]) if len(words) == 2 else fitting(self.num_tokens, length)

    def _step(self, length: int, batch: int) -> float:
        return step_floor(self.profile.shape, self.config, length, batch, self.rates)
