"""What can be asked of both sides, in the order in which it is asked.

Overhead comes before capacity, chat and tree, which share servers with it: both of its sides are fresh then.
"""

from __future__ import annotations

from sglang_speed.lab.bench.scenarios.base import Measured, Scenario, Setting
from sglang_speed.lab.bench.scenarios.capacity import Capacity
from sglang_speed.lab.bench.scenarios.conversations import AgentTree, MultiTurnChat
from sglang_speed.lab.bench.scenarios.decode import Decode
from sglang_speed.lab.bench.scenarios.overhead import Overhead, SchedulerStep
from sglang_speed.lab.bench.scenarios.prefill import Prefill

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (Prefill(), Decode(), Overhead(), Capacity(), MultiTurnChat(), AgentTree(), SchedulerStep())
}

__all__ = ["SCENARIOS", "Measured", "Scenario", "Setting"]
