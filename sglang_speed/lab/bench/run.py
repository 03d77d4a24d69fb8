"""A comparison: start servers pool by pool, run scenarios, collect samples.

Owns the order of events and the content of the results file.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from sglang_speed.lab.bench.adapter import ADAPTER, with_adapter
from sglang_speed.lab.bench.load import LoadClient, Prompts, load_tokenizer
from sglang_speed.lab.bench.models import Contender, Model, tiny_model
from sglang_speed.lab.bench.profiles import Pool, Profile
from sglang_speed.lab.bench.results import Point, Reading, Row, Sample, by_scenario, rows
from sglang_speed.lab.bench.rivals import STOCK
from sglang_speed.lab.bench.scenarios import SCENARIOS, Measurement, Scenario, Setting
from sglang_speed.lab.bench.servers import running, server_environment, server_flags
from sglang_speed.lab.common.provenance import provenance
from sglang_speed.method.cost import Rates

OF_THE_RANDOM_MODEL = (
    "arch",
    "shape",
    "num_layers",
    "prefill_layers",
    "rivals",
    "load_format",
)
"""Sizes of a profile that do not describe a model given by the user."""


@dataclass(frozen=True)
class Starting:
    """The servers of these sides are being started."""

    sides: tuple[str, ...]


@dataclass(frozen=True)
class Finished:
    """A scenario has ended."""

    scenario: str


Event = Starting | Finished | Measurement


@dataclass
class Comparison:
    """The setup and the measurements so far. names: of model and profile, for the results file."""

    model: Model
    profile: Profile
    rates: Rates
    names: Mapping[str, str]
    flags: Sequence[str] = ()
    lora_rank: int | None = None
    samples: list[Sample] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    servers: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    @property
    def rows(self) -> list[Row]:
        """The figures so far; without targets in a rehearsal."""
        if self.profile.is_rehearsal:
            return rows(replace(one, figure=replace(one.figure, target=None)) for one in self.samples)
        return rows(self.samples)

    def run(self, names: Sequence[str], logs: Path) -> Iterator[Event]:
        """Run the named scenarios; those with the same pool share servers. logs: a folder."""
        chosen = sorted((SCENARIOS[name] for name in names), key=lambda one: list(SCENARIOS).index(one.name))
        for (is_tiny, pool), group in groupby(chosen, key=lambda one: (one.is_tiny, one.pool(self.profile))):
            with tempfile.TemporaryDirectory(prefix="sglang-speed-bench-") as directory:
                model = self._tiny(Path(directory)) if is_tiny else self.model
                yield from self._run_group(list(group), model, pool, logs)

    def _run_group(self, group: Sequence[Scenario], model: Model, pool: Pool, logs: Path) -> Iterator[Event]:
        wanted = {side for scenario in group for side in scenario.sides(model)}
        sides = tuple(side for side in model.contenders if side in wanted)
        name = "-".join(scenario.name for scenario in group)
        self.servers[name] = {side: self._command_line(model, side, pool) for side in sides}
        yield Starting(sides)
        with running(model, sides, pool, self.profile, logs / name, self.flags) as servers:
            tokenizer = load_tokenizer(model.contenders[STOCK].path)
            clients = {
                side: LoadClient(server, tokenizer, adapter_of(model, server.contender))
                for side, server in servers.items()
            }
            setting = Setting(
                model, self.profile, self.rates, clients, Prompts(tokenizer, model.shape.vocab_size, model.message)
            )
            for scenario in group:
                for measured in run_scenario(scenario, setting):
                    self._keep(measured)
                    yield measured
                yield Finished(scenario.name)

    def _tiny(self, directory: Path) -> Model:
        model = tiny_model(directory / "tiny", self.profile)
        return model if self.lora_rank is None else with_adapter(model, self.lora_rank, directory / "adapter")

    def _command_line(self, model: Model, side: str, pool: Pool) -> list[str]:
        """A server's environment variables and flags, as typed in a shell."""
        variables = server_environment(model.contenders[side], pool, self.profile)
        flags = server_flags(model, model.contenders[side], pool, self.profile, self.flags)
        return [*(f"{name}={value}" for name, value in variables.items()), *flags]

    def _keep(self, measured: Measurement) -> None:
        if isinstance(measured, Reading):
            self.samples += measured.samples
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
        """sizes: of the scenarios. shape, rivals: of the served model. servers: variables and flags, by scenarios and
        side."""
        sizes = {name: value for name, value in asdict(self.profile).items() if name not in OF_THE_RANDOM_MODEL}
        return {
            **self.names,
            "sizes": sizes,
            "shape": asdict(self.model.shape),
            "rivals": {
                name: {"num_layers": bands.num_layers, **bands.to_dict()} for name, bands in self.model.rivals.items()
            },
            "flags": list(self.flags),
            "lora_rank": self.lora_rank,
            "servers": self.servers,
        }


def adapter_of(model: Model, contender: Contender) -> str | None:
    """What requests to a side name."""
    return None if model.adapter is None or contender.is_bare else ADAPTER


def run_scenario(scenario: Scenario, setting: Setting) -> Iterator[Measurement]:
    """The measurements of a scenario as a synchronous iterator."""
    measured = scenario.run(setting)

    async def following() -> Measurement | None:
        return await anext(measured, None)

    with asyncio.Runner() as runner:
        while (one := runner.run(following())) is not None:
            yield one


def series(points: Iterable[Point]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """The points in order, by plot and side."""
    plots: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for point in points:
        plots.setdefault(point.series, {}).setdefault(point.side, []).append((point.x, point.y))
    return plots
