"""How much fits: prompts in the radix tree, and requests that run at once, in the same bytes of KV."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from sglang_speed.bench.load import Client
from sglang_speed.bench.profiles import Pool, Profile
from sglang_speed.bench.results import Figure, Point, Sample
from sglang_speed.bench.scenarios.base import Measured, Scenario, Setting

TARGET_SHARE = 0.975
"""1.30 of four thirds."""
POLL_SECONDS = 0.25
HIT_SHARE = 0.5


class Capacity(Scenario):
    name = "capacity"

    def pool(self, profile: Profile) -> Pool:
        return profile.cache_pool

    async def run(self, setting: Setting) -> AsyncIterator[Measured]:
        """More distinct prompts than either side holds are sent at once; then it is counted which are still there."""
        profile = setting.profile
        size, running, cached = self.figures(setting)
        for side in self.sides:
            client = setting.clients[side]
            prompts = self.prompts(setting, client)
            client.flush()
            yield Sample(size, side, client.server.prompt_tokens)
            most = 0
            async for elapsed, count in self.run_all(client, prompts, profile.capacity_tokens):
                yield Point("requests at once", side, elapsed, count)
                most = max(most, count)
            yield Sample(running, side, most)
            yield Sample(cached, side, await self.count_cached(client, prompts))

    def figures(self, setting: Setting) -> tuple[Figure, Figure, Figure]:
        """Ceilings: without a deep band, the same bytes hold `L/Lc` times the tokens; requests are whole."""
        profile, config = setting.profile, setting.model.speed
        depth = config.num_layers / config.prefill_layers
        tokens, each = profile.cache_pool.tokens, profile.capacity_prompt + profile.capacity_tokens
        whole = (tokens * depth // each) / (tokens // each)
        name = f"prompts of {profile.capacity_prompt} tokens that stay"
        return (
            Figure(
                self.name, "prompt tokens in the pool", "tokens", depth, TARGET_SHARE * depth, "higher", "speed", True
            ),
            Figure(self.name, "requests that run at once", "", whole, better="higher"),
            Figure(self.name, name, "", whole, better="higher"),
        )

    def prompts(self, setting: Setting, client: Client) -> list[list[int]]:
        """A few more than the server can hold."""
        length = setting.profile.capacity_prompt
        number = client.server.prompt_tokens // length + 2
        return [setting.prompts.prompt("capacity", index, length) for index in range(number)]

    async def run_all(
        self, client: Client, prompts: list[list[int]], num_tokens: int
    ) -> AsyncIterator[tuple[float, int]]:
        """Seconds and running requests, until all prompts are answered."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        asking = asyncio.gather(*(client.ask(prompt, num_tokens) for prompt in prompts))
        while not asking.done():
            await asyncio.wait([asking], timeout=POLL_SECONDS)
            yield loop.time() - start, await loop.run_in_executor(None, client.num_running)
        await asking

    async def count_cached(self, client: Client, prompts: list[list[int]]) -> int:
        """Ask again, the newest first, until one is no longer there: a hit takes no room from the older ones."""
        for number, prompt in enumerate(reversed(prompts)):
            answer = await client.ask(prompt, 1)
            if answer.cached_len < HIT_SHARE * len(prompt):
                return number
        return len(prompts)
