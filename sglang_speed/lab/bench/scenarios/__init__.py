"""All scenarios, in the order in which they run.

Overhead runs before capacity, chat and tree, which share its servers, so that its servers are fresh.
"""

from __future__ import annotations

from sglang_speed.lab.bench.scenarios.agents import Agents
from sglang_speed.lab.bench.scenarios.base import Measurement, Scenario, Setting
from sglang_speed.lab.bench.scenarios.capacity import Capacity
from sglang_speed.lab.bench.scenarios.conversations import AgentTree, MultiTurnChat
from sglang_speed.lab.bench.scenarios.decode import Decode
from sglang_speed.lab.bench.scenarios.overhead import Overhead, SchedulerStep
from sglang_speed.lab.bench.scenarios.prefill import Prefill

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Prefill(),
        Decode(),
        Overhead(),
        Capacity(),
        MultiTurnChat(),
        AgentTree(),
        Agents(),
        SchedulerStep(),
    )
}

__all__ = ["SCENARIOS", "Measurement", "Scenario", "Setting"]
