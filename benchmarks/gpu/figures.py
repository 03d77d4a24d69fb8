"""From samples to the rows of `sglang-speed bench`, each with the ceiling that the arithmetic gives it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from contenders import Profile, contenders, fitting, prompt_tokens, running_layers

from sglang_speed.config import SpeedConfig
from sglang_speed.lab.bench.results import Figure, Row, Sample, rows
from sglang_speed.method.cost import Rates, extend_of, kept_layers, kv_bytes_per_prompt_token, step_floor, ttft_floor


@dataclass(frozen=True)
class Kind:
    """What figures whose names begin alike have in common. target_share: the target as a share of the ceiling."""

    scenario: str
    unit: str
    better: str = "lower"
    target_share: float | None = None


KINDS = {
    "seconds to start": Kind("start", "s"),
    "TTFT": Kind("prefill", "s", target_share=0.975),
    "TTFT of a hit": Kind("prefill", "s"),
    "TPOT": Kind("decode", "s", target_share=0.95),
    "prompt tokens": Kind("capacity", "tokens", "higher", 0.975),
    "requests at once": Kind("capacity", "requests", "higher"),
    "output tokens/s": Kind("serving", "tokens/s", "higher"),
}
"""By a figure's name up to the first comma."""


def gpu_rows(samples: Iterable[Mapping[str, Any]], profile: Profile, stock_requests: int, rates: Rates) -> list[Row]:
    """SPEED and further policies against stock, and `Lc = L` against stock, for each figure that both have."""
    samples = list(samples)
    machines = {name: _Machine(one.config, profile, stock_requests, rates) for name, one in contenders(profile).items()}
    figures = {sample["figure"]: list(_figures(sample["figure"], machines)) for sample in samples}
    return rows(
        Sample(figure, sample["contender"], sample["value"])
        for sample in samples
        for figure in figures[sample["figure"]]
        if sample["contender"] in ("stock", figure.rival)
    )


def _figures(name: str, machines: Mapping[str, _Machine]) -> Iterator[Figure]:
    kind = KINDS[name.partition(", ")[0]]
    stock = machines["stock"].best(name)
    figure = Figure(kind.scenario, name, kind.unit, better=kind.better)
    for rival in (name for name in machines if name not in ("stock", "equal")):
        best = machines[rival].best(name)
        ceiling = None if stock is None or best is None else figure.ratio(stock, best)
        is_judged = ceiling is not None and kind.target_share is not None and rival == "speed"
        is_judged = is_judged and not machines[rival].profile.is_rehearsal
        yield replace(figure, ceiling=ceiling, target=kind.target_share * ceiling if is_judged else None, rival=rival)
    yield Figure("overhead", name, kind.unit, 1.0, better=kind.better, rival="equal")


@dataclass(frozen=True)
class _Machine:
    """What the arithmetic allows one contender on this machine."""

    config: SpeedConfig
    profile: Profile
    stock_requests: int
    rates: Rates

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
                batch = fitting(self._num_tokens, length)
                return batch / self._step(length, batch)
            case "prompt tokens":
                return self._ideal_tokens
            case "requests at once":
                return float(fitting(int(self._ideal_tokens * self._share_that_stays), length))
        return None

    @property
    def _num_tokens(self) -> int:
        return prompt_tokens(self.config, self.profile, self.stock_requests)

    @property
    def _ideal_tokens(self) -> float:
        """Prompt tokens in all of the KV memory, without a deep band."""
        return self.profile.kv_bytes(self.stock_requests) / kv_bytes_per_prompt_token(self.profile.shape, self.config)

    @property
    def _share_that_stays(self) -> float:
        """Of what a prompt token takes while its request runs."""
        return kept_layers(self.profile.shape, self.config) / running_layers(self.config, self.profile)

    def _ttft(self, prompt_len: int, cached_len: int) -> float:
        extend = extend_of(self.config, prompt_len, cached_len)
        return ttft_floor(self.profile.shape, self.config, extend, self.rates)

    def _batch(self, figure: str, length: int) -> int:
        words = figure.rsplit("batch ", 1)
        return int(words[1]) if len(words) == 2 else fitting(self._num_tokens, length)

    def _step(self, length: int, batch: int) -> float:
        return step_floor(self.profile.shape, self.config, length, batch, self.rates)
