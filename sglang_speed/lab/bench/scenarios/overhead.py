"""The cost of the plugin itself: `Lc = L` against stock, and a decode step of a tiny model."""

from __future__ import annotations

from collections.abc import AsyncIterator

from sglang_speed.lab.bench.results import Figure, Sample
from sglang_speed.lab.bench.scenarios.base import Measurement, Scenario, Setting, alternating
from sglang_speed.lab.bench.scenarios.decode import ask_all, decode_step

TARGET = 0.98
"""`Lc = L` within 2% of stock."""
STEP_PROMPT = 512


class Overhead(Scenario):
    name = "overhead"
    sides = ("stock", "equal")
    pool_name = "cache_pool"

    async def run(self, setting: Setting) -> AsyncIterator[Measurement]:
        profile, length = setting.profile, setting.profile.overhead_len
        ttft = Figure(self.name, f"TTFT, {length} tokens", "s", 1.0, TARGET, rival="equal", is_headline=True)
        tpot = Figure(self.name, f"TPOT after {length} tokens, batch 1", "s", 1.0, TARGET, rival="equal")
        for repeat in range(-1, profile.overhead_repeats):
            prompt = setting.prompts.prompt("overhead", repeat, length)
            for side in alternating(self.sides, repeat):
                client = setting.clients[side]
                client.flush()  # the same slots every time: first writes to memory are slower
                answer = await client.ask(prompt, profile.decode_tokens)
                if repeat >= 0:  # the first round warms up
                    yield Sample(ttft, side, answer.ttft)
                    yield Sample(tpot, side, answer.tpot)


class SchedulerStep(Scenario):
    name = "step"
    is_tiny = True
    pool_name = "step_pool"

    async def run(self, setting: Setting) -> AsyncIterator[Measurement]:
        """With four tiny layers, a step is mostly scheduler, event loop and kernel launches."""
        profile = setting.profile
        name = f"decode step of a tiny model, {profile.step_requests} requests"
        stock, speed = (setting.step_floor(side, STEP_PROMPT, profile.step_requests) for side in self.sides)
        figure = Figure(self.name, name, "s", stock / speed, is_headline=True)
        prompts = [setting.prompts.prompt("step", index, STEP_PROMPT) for index in range(profile.step_requests)]
        for side in self.sides:
            await ask_all(setting.clients[side], prompts, profile.decode_tokens)
        for repeat in range(profile.overhead_repeats):
            for side in alternating(self.sides, repeat):
                step = await decode_step(setting.clients[side], prompts, profile.decode_tokens)
                yield Sample(figure, side, step)
