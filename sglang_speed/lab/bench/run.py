"""A whole comparison: servers started pool by pool, scenarios asked, samples collected.

Owns the order of events and the results file. What a scenario asks is its own business.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from sglang_speed.lab.bench.load import LoadClient, Prompts, load_tokenizer
from sglang_speed.lab.bench.models import Model, tiny_model
from sglang_speed.lab.bench.profiles import Pool, Profile
from sglang_speed.lab.bench.results import Point, Row, Sample, by_scenario, rows
from sglang_speed.lab.bench.scenarios import SCENARIOS, Measured, Scenario, Setting
from sglang_speed.lab.bench.servers import running, server_environment, server_flags
from sglang_speed.lab.common.provenance import provenance
from sglang_speed.method.cost import Rates

OF_THE_RANDOM_MODEL = ("shape", "num_layers", "prefill_layers", "load_format")
"""Sizes of a profile that say nothing of a model that the user names."""


@dataclass(frozen=True)
class Starting:
    """Servers of these sides are about to be started."""

    sides: tuple[str, ...]


@dataclass(frozen=True)
class Finished:
    """A scenario has been asked to its end."""

    scenario: str


Event = Starting | Finished | Measured


@dataclass
class Comparison:
    """What is compared, and what was measured so far. names: of the model and the profile, for the results file."""

    model: Model
    profile: Profile
    rates: Rates
    names: Mapping[str, str]
    flags: Sequence[str] = ()
    samples: list[Sample] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    servers: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    @property
    def rows(self) -> list[Row]:
        """The figures so far; those of a rehearsal have no target that they could miss."""
        if self.profile.is_rehearsal:
            return rows(replace(one, figure=replace(one.figure, target=None)) for one in self.samples)
        return rows(self.samples)

    def run(self, names: Sequence[str], logs: Path) -> Iterator[Event]:
        """Measure the named scenarios; those with the same pool share their servers. logs: a folder."""
        chosen = sorted((SCENARIOS[name] for name in names), key=lambda one: list(SCENARIOS).index(one.name))
        for (is_tiny, pool), group in groupby(chosen, key=lambda one: (one.is_tiny, one.pool(self.profile))):
            with tempfile.TemporaryDirectory(prefix="sglang-speed-bench-") as directory:
                model = tiny_model(Path(directory) / "tiny") if is_tiny else self.model
                yield from self._run_group(list(group), model, pool, logs)

    def _run_group(self, group: Sequence[Scenario], model: Model, pool: Pool, logs: Path) -> Iterator[Event]:
        sides = tuple(side for side in model.contenders if any(side in scenario.sides for scenario in group))
        name = "-".join(scenario.name for scenario in group)
        self.servers[name] = {side: self._given(model, side, pool) for side in sides}
        yield Starting(sides)
        with running(model, sides, pool, self.profile, logs / name, self.flags) as servers:
            tokenizer = load_tokenizer(model.contenders["stock"].path)
            clients = {side: LoadClient(server, tokenizer) for side, server in servers.items()}
            setting = Setting(model, self.profile, self.rates, clients, Prompts(tokenizer, model.shape.vocab_size))
            for scenario in group:
                for measured in in_this_thread(scenario, setting):
                    self._keep(measured)
                    yield measured
                yield Finished(scenario.name)

    def _given(self, model: Model, side: str, pool: Pool) -> list[str]:
        """What a server is started with, as one would type it: variables first, then flags."""
        variables = server_environment(side, pool, self.profile)
        flags = server_flags(model, model.contenders[side], pool, self.profile)
        return [*(f"{name}={value}" for name, value in variables.items()), *flags, *self.flags]

    def _keep(self, measured: Measured) -> None:
        if isinstance(measured, Sample):
            self.samples.append(measured)
        else:
            self.points.append(measured)

    def to_dict(self) -> dict[str, Any]:
        """The results file."""
        return {
            **provenance(),
            "rates": asdict(self.rates),
            "configuration": self.configuration(),
            "scenarios": by_scenario(self.rows),
            "series": series(self.points),
        }

    def configuration(self) -> dict[str, Any]:
        """sizes: of what was asked. shape, speed: of the model that was served, the profile's or the user's.
        servers: variables and flags of each that was started, by scenarios and side."""
        sizes = {name: value for name, value in asdict(self.profile).items() if name not in OF_THE_RANDOM_MODEL}
        return {
            **self.names,
            "sizes": sizes,
            "shape": asdict(self.model.shape),
            "speed": {"num_layers": self.model.speed.num_layers, **self.model.speed.to_dict()},
            "flags": list(self.flags),
            "servers": self.servers,
        }


def in_this_thread(scenario: Scenario, setting: Setting) -> Iterator[Measured]:
    """A scenario's samples one by one, as an ordinary iterator."""
    measured = scenario.run(setting)

    async def following() -> Measured | None:
        return await anext(measured, None)

    with asyncio.Runner() as runner:
        while (one := runner.run(following())) is not None:
            yield one


def series(points: Iterable[Point]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Per plot and side, the points in their order."""
    plots: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for point in points:
        plots.setdefault(point.series, {}).setdefault(point.side, []).append((point.x, point.y))
    return plots
