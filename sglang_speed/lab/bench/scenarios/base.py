"""The base class of scenarios, and their setting."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from sglang_speed.lab.bench.load import LoadClient, Prompts
from sglang_speed.lab.bench.models import Model
from sglang_speed.lab.bench.profiles import Pool, Profile
from sglang_speed.lab.bench.results import Figure, Point, Reading
from sglang_speed.lab.bench.rivals import STOCK
from sglang_speed.method.cost import Rates, extend_of, step_floor, ttft_floor

Measurement = Reading | Point


@dataclass(frozen=True)
class Setting:
    """A client for each running server, and the model, profile and rates."""

    model: Model
    profile: Profile
    rates: Rates
    clients: Mapping[str, LoadClient]
    prompts: Prompts

    @property
    def bytes_per_layer(self) -> int:
        return self.model.shape.kv_bytes_per_layer

    def per_rival(self, figure: Callable[[str], Figure]) -> dict[str, Figure]:
        """One quantity, measured of each rival: `figure` makes it, with its ceiling, from the rival's name.

        A bare rival has neither ceiling nor target, since stock does what it is spared.
        """
        figures = {rival: replace(figure(rival), rival=rival) for rival in self.model.rivals}
        return {
            rival: replace(one, ceiling=None, target=None) if self.model.contenders[rival].is_bare else one
            for rival, one in figures.items()
        }

    def ttft_floor(self, side: str, prompt_len: int, cached_len: int = 0) -> float:
        """The lowest possible TTFT on this machine, in seconds."""
        config = self.model.contenders[side].config
        return ttft_floor(self.model.shape, config, extend_of(config, prompt_len, cached_len), self.rates)

    def step_floor(self, side: str, context_len: int, batch_size: int) -> float:
        """The lowest possible time of a decode step, in seconds."""
        config = self.model.contenders[side].config
        return step_floor(self.model.shape, config, context_len, batch_size, self.rates)


class Scenario(ABC):
    """One measurement of all sides.

    name: as typed by the user. pool_name: field of the profile with the KV memory of its servers. is_tiny: uses the
        tiny model.
    """

    name: ClassVar[str]
    pool_name: ClassVar[str]
    is_tiny: ClassVar[bool] = False

    def sides(self, model: Model) -> tuple[str, ...]:
        """The servers it needs."""
        return (STOCK, *model.rivals)

    def pool(self, profile: Profile) -> Pool:
        """The KV memory of its servers."""
        return getattr(profile, self.pool_name)

    @abstractmethod
    def run(self, setting: Setting) -> AsyncIterator[Measurement]:
        """Send requests and yield measurements."""


def alternating(sides: Sequence[str], repeat: int) -> list[str]:
    """Reverse the order in every other repeat, so that a drift of the machine affects all sides."""
    return list(sides) if repeat % 2 == 0 else list(reversed(sides))
