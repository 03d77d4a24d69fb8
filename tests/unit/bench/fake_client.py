"""A server that does arithmetic only: a prefix cache with a size, evicting the least recently used, and a clock made of
layers times tokens. Stands in for `load.LoadClient`, so that scenarios can be tested without servers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace

from sglang_speed.config import SpeedConfig
from sglang_speed.lab.bench.load import Answer, Load
from sglang_speed.method.cost import ModelShape

SECONDS_PER_LAYER = 1e-6
BYTES = 10


class FakeClient:
    """capacity: tokens of the prefix cache. Prompts are cached whole; a hit is the longest common prefix."""

    def __init__(self, config: SpeedConfig, capacity: int) -> None:
        self.config = config
        self.capacity = capacity
        self.cached: list[tuple[int, ...]] = []
        self.asked: list[tuple[int, int]] = []
        self.running = self.waiting = self.most = 0
        self.begun: list[object] = []
        self.is_held_up = False
        self.steps = 0
        self.server = SimpleNamespace(prompt_tokens=capacity, contender=SimpleNamespace(config=config))

    async def ask(self, prompt: Sequence[int], max_new_tokens: int) -> Answer:
        self.asked.append((len(prompt), max_new_tokens))
        if max_new_tokens > 1:
            await self._run_beside_others(len(prompt) + max_new_tokens)
        hit = max((common_prefix(prompt, one) for one in self.cached), default=0)
        hit = min(hit, len(prompt) - (1 if self.config.is_stock else self.config.tail_tokens))
        new_ids = tuple(range(1000, 1000 + max_new_tokens))
        self._keep((*prompt, *new_ids))
        ttft = (len(prompt) - hit) * self.config.prefill_layers * SECONDS_PER_LAYER
        step = len(prompt) * self.config.prefill_layers * SECONDS_PER_LAYER
        times = tuple(ttft + number * step for number in range(max_new_tokens))
        return Answer(0.0, times, len(prompt), hit, new_ids)

    def ask_together(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
        async def ask_each() -> None:
            await asyncio.gather(*(self.ask(prompt, max_new_tokens) for prompt in prompts))

        asyncio.run(ask_each())

    async def _run_beside_others(self, num_tokens: int) -> None:
        """Wait until there is room, then run for a few polls, and as long as steps are held up. Who began first ends
        first, whenever steps go on."""
        self.waiting += 1
        while (self.running + 1) * num_tokens > self.capacity:
            await asyncio.sleep(0)
        self.waiting -= 1
        self.running += 1
        self.most = max(self.most, self.running)
        self.begun.append(own := object())
        for _ in range(5):
            await asyncio.sleep(0)
        while self.is_held_up or self.begun[0] is not own:
            await asyncio.sleep(0)
        self.begun.pop(0)
        self.running -= 1

    def _keep(self, tokens: tuple[int, ...]) -> None:
        longer = next((one for one in self.cached if common_prefix(one, tokens) == len(tokens)), tokens)
        self.cached = [one for one in self.cached if common_prefix(one, longer) < len(one)]
        self.cached.append(longer)
        while sum(map(len, self.cached)) > self.capacity:
            self.cached.pop(0)

    def flush(self) -> None:
        self.cached.clear()

    def tokens_in_a_step(self) -> float | None:
        """Nothing is drafted."""
        return None

    def load(self) -> Load:
        """Every report is one decode step later, and of the most that have run since the last one."""
        self.steps += 1
        seen, self.most = self.most, self.running
        return Load(seen, self.waiting, self.steps * seen)

    def delay_steps(self, seconds: float) -> None:
        self.is_held_up = seconds > 0

    def kv_bytes_held(self, shape: ModelShape) -> int:
        return sum(map(len, self.cached)) * self.config.prefill_layers * shape.kv_bytes_per_layer


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
