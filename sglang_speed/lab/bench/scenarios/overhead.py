"""The cost of the plugin itself: `Lc = L` against stock, and a decode step of a tiny model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

from sglang_speed.lab.bench.models import Model
from sglang_speed.lab.bench.results import Figure, Reading
from sglang_speed.lab.bench.rivals import EQUAL, STOCK
from sglang_speed.lab.bench.scenarios.base import Measurement, Scenario, Setting, alternating
from sglang_speed.lab.bench.scenarios.decode import ask_all, decode_step, shared_step

TARGET = 0.98
"""`Lc = L` within 2% of stock."""
STEP_PROMPT = 512


class Overhead(Scenario):
    name = "overhead"
    pool_name = "cache_pool"

    def sides(self, model: Model) -> tuple[str, ...]:
        return (STOCK, EQUAL)

    async def run(self, setting: Setting) -> AsyncIterator[Measurement]:
        profile, length = setting.profile, setting.profile.overhead_len
        ttft = Figure(self.name, f"TTFT, {length} tokens", "s", 1.0, TARGET, rival=EQUAL, is_headline=True)
        tpot = Figure(self.name, f"TPOT after {length} tokens, batch 1", "s", 1.0, TARGET, rival=EQUAL)
        for repeat in range(-1, profile.overhead_repeats):
            prompt = setting.prompts.prompt("overhead", repeat, length)
            for side in alternating(self.sides(setting.model), repeat):
                client = setting.clients[side]
                client.flush()  # the same slots every time: first writes to memory are slower
                answer = await client.ask(prompt, profile.decode_tokens)
                if repeat >= 0:  # the first round warms up
                    yield Reading({EQUAL: ttft}, side, answer.ttft)
                    yield Reading({EQUAL: tpot}, side, shared_step([answer]))


class SchedulerStep(Scenario):
    name = "step"
    is_tiny = True
    pool_name = "step_pool"

    async def run(self, setting: Setting) -> AsyncIterator[Measurement]:
        """With four tiny layers, a step is mostly scheduler, event loop and kernel launches."""
        profile, sides = setting.profile, self.sides(setting.model)
        figures = setting.per_rival(partial(self.figure, setting))
        prompts = [setting.prompts.prompt("step", index, STEP_PROMPT) for index in range(profile.step_requests)]
        for side in sides:
            await ask_all(setting.clients[side], prompts, profile.decode_tokens)
        for repeat in range(profile.overhead_repeats):
            for side in alternating(sides, repeat):
                step = await decode_step(setting.clients[side], prompts, profile.decode_tokens)
                yield Reading(figures, side, step)

    def figure(self, setting: Setting, rival: str) -> Figure:
        requests = setting.profile.step_requests
        stock, ours = (setting.step_floor(side, STEP_PROMPT, requests) for side in (STOCK, rival))
        name = f"decode step of a tiny model, {requests} requests"
        return Figure(self.name, name, "s", stock / ours, is_headline=True)
