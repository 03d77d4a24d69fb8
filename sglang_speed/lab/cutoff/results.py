"""All figures of a checkpoint as one JSON-serializable value, for tables, plot and file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby, takewhile
from operator import itemgetter
from statistics import median
from typing import Any

import torch
from torch import Tensor

from sglang_speed.config import SpeedConfig
from sglang_speed.lab.common.statistics import Estimate, ratio
from sglang_speed.lab.cutoff.advice import Advice, Usable, advise, best, lowest_within
from sglang_speed.lab.cutoff.cutoffs import MEASURES, NO_CONTEXT
from sglang_speed.lab.cutoff.evidence import KINDS as REQUEST_KINDS
from sglang_speed.lab.cutoff.evidence import evidence_of, kinds_of, lacking
from sglang_speed.lab.cutoff.fisher import KINDS
from sglang_speed.lab.cutoff.policies import Setting
from sglang_speed.lab.cutoff.request import Request
from sglang_speed.method.cost import ModelShape, kept_layers, ttft_ceiling
from sglang_speed.policies import SpeedPolicy

LONG_PROMPT = 8192
"""Tokens of the prompt for which the gain in TTFT is stated."""
GAINS = ("at_rest", "ttft")


@dataclass(frozen=True)
class Measurements:
    """Sums over the response tokens of each request.

    importance: [num_requests, 2, num_layers]. by_cutoff: [num_requests, num_cutoffs, 3], in the order of MEASURES.
    cutoffs: ascending, NO_CONTEXT first, all layers last. by_setting: [num_requests, num_settings, 3].
    """

    requests: Sequence[Request]
    cutoffs: Sequence[int]
    settings: Sequence[Setting]
    importance: Tensor
    by_cutoff: Tensor
    by_setting: Tensor

    @property
    def num_tokens(self) -> Tensor:
        """Response tokens of each request."""
        return torch.tensor([request.response_len for request in self.requests])

    def importance_of(self, kind: str) -> list[Estimate]:
        """Importance of every layer, for one of KINDS."""
        return [self._per_token(sums) for sums in self.importance[:, KINDS.index(kind)].T]

    def measure_of(self, name: str) -> dict[int, Estimate]:
        """One of MEASURES for every cutoff."""
        by_cutoff = self.by_cutoff[..., MEASURES.index(name)].T
        return {cutoff: self._per_token(sums) for cutoff, sums in zip(self.cutoffs, by_cutoff, strict=True)}

    def measure_of_setting(self, index: int, name: str) -> Estimate:
        """One of MEASURES for a setting."""
        return self._per_token(self.by_setting[:, index, MEASURES.index(name)])

    def of_setting(self, index: int) -> Measurements:
        """The same for the requests of which a setting leaves something out: the others it serves at full depth."""
        policy = SpeedPolicy(self.settings[index].bands)
        return self._of([number for number, one in enumerate(self.requests) if policy.deep_tokens(one.prompt_len).gap])

    def of_kind(self, kind: str, speed: SpeedConfig) -> Measurements | None:
        """The same for the requests of one kind (`evidence.py`); None if there are none."""
        policy = SpeedPolicy(speed)
        chosen = [index for index, one in enumerate(self.requests) if kind in kinds_of(one, policy)]
        return self._of(chosen) if chosen else None

    def _of(self, chosen: Sequence[int]) -> Measurements:
        """The same for some of the requests."""
        return replace(
            self,
            requests=[self.requests[index] for index in chosen],
            importance=self.importance[chosen],
            by_cutoff=self.by_cutoff[chosen],
            by_setting=self.by_setting[chosen],
        )

    def _per_token(self, sums: Tensor) -> Estimate:
        """Mean over response tokens, which are not independent within a response. sums: [num_requests]."""
        return ratio(sums.tolist(), self.num_tokens.tolist())

    def worst_tenth(self) -> dict[int, float]:
        """Divergence per token that one response in ten exceeds, by cutoff."""
        per_response = self.by_cutoff[..., MEASURES.index("divergence")].double() / self.num_tokens[:, None]
        return dict(zip(self.cutoffs, per_response.quantile(0.9, dim=0).tolist(), strict=True))


def results_of(measured: Measurements, speed: SpeedConfig, shape: ModelShape, max_kl: float) -> dict[str, Any]:
    """Importance, figures by cutoff and setting, and the recommendation, which is None without enough evidence.

    speed: layers, anchors and tail.
    """
    importance = {kind: measured.importance_of(kind) for kind in KINDS}
    parts = {kind: part for kind in REQUEST_KINDS if (part := measured.of_kind(kind, speed)) is not None}
    by_kind = {kind: part.measure_of("divergence") for kind, part in parts.items()}
    evidence = evidence_of(measured.requests, SpeedPolicy(speed))
    settings = _by_setting(measured, shape)
    advice, chosen = Advice(None, None), dict.fromkeys(GAINS)
    if not lacking(evidence):
        advice = advise([measured.measure_of("divergence"), *by_kind.values()], speed.num_layers, max_kl)
        usable = [*_usable_cutoff(measured, speed, shape, advice), *_usable_settings(settings, max_kl)]
        chosen = {gain: None if (one := best(usable, gain)) is None else one.label for gain in GAINS}
    return {
        "num_layers": speed.num_layers,
        "visibility": {"anchor_tokens": speed.anchor_tokens, "tail_tokens": speed.tail_tokens},
        "requests": _requests(measured),
        "importance": {kind: list(map(figures_of, each)) for kind, each in importance.items()},
        "evidence": evidence,
        "cutoffs": _by_cutoff(measured, speed, [each.value for each in importance["prompt"]], by_kind),
        "settings": settings,
        "recommendation": {"max_kl": max_kl, **asdict(advice), **chosen},
    }


def _by_setting(measured: Measurements, shape: ModelShape) -> list[dict[str, Any]]:
    """Of the requests that a setting does not serve at full depth, each kind as its own anchors and tail make it."""
    return [
        _figures_of_setting(measured.of_setting(index), index, setting, shape)
        for index, setting in enumerate(measured.settings)
    ]


def _figures_of_setting(measured: Measurements, index: int, setting: Setting, shape: ModelShape) -> dict[str, Any]:
    enough = evidence_of(measured.requests, SpeedPolicy(setting.bands))
    parts = {kind: part for kind in REQUEST_KINDS if (part := measured.of_kind(kind, setting.bands)) is not None}
    has_any = bool(measured.requests)
    return {
        "series": setting.series,
        "label": label_of(setting.series, setting.bands),
        "speed": setting.bands.to_dict(),
        **gains_of(shape, setting.bands),
        "requests": len(measured.requests),
        "lacking": lacking(enough),
        **{name: figures_of(measured.measure_of_setting(index, name)) if has_any else None for name in MEASURES},
        "divergence_by_kind": {
            kind: figures_of(part.measure_of_setting(index, "divergence")) for kind, part in parts.items()
        },
    }


def _usable_cutoff(measured: Measurements, speed: SpeedConfig, shape: ModelShape, advice: Advice) -> Iterator[Usable]:
    """SPEED at the cutoff that is advised without training, if there is one."""
    if advice.untrained is not None and advice.untrained < speed.num_layers:
        bands = replace(speed, prefill_layers=advice.untrained)
        divergence = measured.measure_of("divergence")[advice.untrained].value
        yield Usable(label_of(bands.policy, bands), **gains_of(shape, bands), divergence=divergence)


def _usable_settings(settings: Sequence[Mapping[str, Any]], max_kl: float) -> Iterator[Usable]:
    """The lowest usable cutoff of each series that was asked enough."""
    for _, series in groupby(settings, key=itemgetter("series")):
        falling = list(takewhile(lambda one: not one["lacking"], series))
        figures = [[one["divergence"], *one["divergence_by_kind"].values()] for one in falling]
        estimates = [[Estimate(one["value"], one["error"]) for one in of_setting] for of_setting in figures]
        lowest = lowest_within(estimates, max_kl)
        if lowest is not None:
            one = falling[lowest]
            yield Usable(one["label"], one["at_rest"], one["ttft"], one["divergence"]["value"])


def gains_of(shape: ModelShape, bands: SpeedConfig) -> dict[str, float]:
    """The most that bands gain, as in `Usable`."""
    return {
        "at_rest": bands.num_layers / kept_layers(shape, bands),
        "ttft": ttft_ceiling(shape, bands, LONG_PROMPT),
    }


def label_of(series: str, bands: SpeedConfig) -> str:
    return f"{series}, {' and '.join(map(str, bands.cutoffs))} of {bands.num_layers} layers"


def figures_of(estimate: Estimate) -> dict[str, float]:
    """For the file, where the error of a single response is 0."""
    return {"value": estimate.value, "error": estimate.stderr or 0.0}


def _requests(measured: Measurements) -> dict[str, Any]:
    lengths = [request.prompt_len for request in measured.requests]
    return {
        "num": len(lengths),
        "prompt_len": {"least": min(lengths), "median": median(lengths), "most": max(lengths)},
        "response_tokens": int(measured.num_tokens.sum()),
    }


def _by_cutoff(
    measured: Measurements,
    speed: SpeedConfig,
    prompt_importance: Sequence[float],
    by_kind: Mapping[str, Mapping[int, Estimate]],
) -> list[Mapping[str, Any]]:
    estimates = {name: measured.measure_of(name) for name in MEASURES}
    worst_tenth = measured.worst_tenth()
    return [
        {
            "prefill_layers": cutoff,
            "ceiling": None if cutoff == NO_CONTEXT else speed.num_layers / cutoff,
            **{name: figures_of(estimates[name][cutoff]) for name in MEASURES},
            "divergence_by_kind": {kind: figures_of(divergence[cutoff]) for kind, divergence in by_kind.items()},
            "divergence_of_worst_tenth": worst_tenth[cutoff],
            "prompt_importance_above": sum(prompt_importance[cutoff:]) / max(sum(prompt_importance), 1e-30),
        }
        for cutoff in measured.cutoffs
    ]
