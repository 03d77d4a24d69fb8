"""A whole comparison: servers started pool by pool, scenarios asked, samples collected.

Owns the order of events and the results file. What a scenario asks is its own business.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from sglang_speed.bench.ceilings import Rates
from sglang_speed.bench.load import Client, Prompts, load_tokenizer
from sglang_speed.bench.models import Model, tiny_model
from sglang_speed.bench.profiles import Pool, Profile
from sglang_speed.bench.provenance import provenance
from sglang_speed.bench.results import Point, Row, Sample, by_scenario, rows
from sglang_speed.bench.scenarios import SCENARIOS, Measured, Scenario, Setting
from sglang_speed.bench.servers import running, server_flags

Tell = Callable[[str], None]
"""Where the run says what it is doing."""


@dataclass
class Comparison:
    """What is compared, and what was measured so far."""

    model: Model
    profile: Profile
    rates: Rates
    flags: Sequence[str] = ()
    samples: list[Sample] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)

    @property
    def rows(self) -> list[Row]:
        return rows(self.samples)

    def run(self, names: Sequence[str], logs: Path, tell: Tell) -> Iterator[Measured]:
        """Measure the named scenarios; those with the same pool share their servers. logs: a folder."""
        chosen = sorted((SCENARIOS[name] for name in names), key=lambda one: list(SCENARIOS).index(one.name))
        for (is_tiny, pool), group in groupby(chosen, key=lambda one: (one.is_tiny, one.pool(self.profile))):
            with tempfile.TemporaryDirectory(prefix="sglang-speed-bench-") as directory:
                model = tiny_model(Path(directory) / "tiny") if is_tiny else self.model
                yield from self._run_group(list(group), model, pool, logs / _name_of(pool), tell)

    def _run_group(
        self, group: Sequence[Scenario], model: Model, pool: Pool, logs: Path, tell: Tell
    ) -> Iterator[Measured]:
        sides = [side for side in model.contenders if any(side in scenario.sides for scenario in group)]
        tell(f"starting {', '.join(sides)}, their logs are in {logs}")
        with running(model, sides, pool, self.profile, logs, self.flags) as servers:
            tokenizer = load_tokenizer(model.contenders["stock"].path)
            clients = {side: Client(server, tokenizer) for side, server in servers.items()}
            setting = Setting(model, self.profile, self.rates, clients, Prompts(tokenizer))
            for scenario in group:
                tell(scenario.name)
                for measured in in_this_thread(scenario, setting):
                    self._keep(measured)
                    yield measured

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
        pools = {_name_of(pool): pool for pool in (self.profile.long_pool, self.profile.cache_pool)}
        return {
            "profile": asdict(self.profile),
            "shape": asdict(self.model.shape),
            "speed": {"num_layers": self.model.speed.num_layers, **self.model.speed.to_dict()},
            "flags": list(self.flags),
            "servers": {
                name: {
                    side: server_flags(self.model, one, pool, self.profile)
                    for side, one in self.model.contenders.items()
                }
                for name, pool in pools.items()
            },
        }

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")


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


def _name_of(pool: Pool) -> str:
    return f"pool-of-{pool.tokens}-tokens"
