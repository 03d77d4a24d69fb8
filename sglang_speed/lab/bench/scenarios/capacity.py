"""How much fits: prompts in the radix tree, and requests that run at once, in the same bytes of KV."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from sglang_speed.lab.bench.load import Answer, LoadClient
from sglang_speed.lab.bench.results import Figure, Sample
from sglang_speed.lab.bench.scenarios.base import Measured, Scenario, Setting
from sglang_speed.lab.common.client import RequestFailed

TARGET_SHARE = 0.975
"""1.30 of four thirds."""
STEP_SECONDS = 1.0
"""How long each step is held up while requests are counted; those that run do so for several steps."""
POLL_SECONDS = 0.1
HIT_SHARE = 0.5


class Capacity(Scenario):
    name = "capacity"
    pool_name = "cache_pool"

    async def run(self, setting: Setting) -> AsyncIterator[Measured]:
        """More distinct prompts than either side holds are sent at once; then it is counted which are still there."""
        profile = setting.profile
        size, running, cached = self.figures(setting)
        for side in self.sides:
            client = setting.clients[side]
            prompts = self.prompts(setting, client)
            client.flush()
            yield Sample(size, side, client.server.prompt_tokens)
            yield Sample(running, side, await self.count_running(client, prompts, profile.capacity_tokens))
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
            Figure(self.name, "requests that run at once", "requests", whole, better="higher"),
            Figure(self.name, name, "prompts", whole, better="higher"),
        )

    def prompts(self, setting: Setting, client: LoadClient) -> list[list[int]]:
        """A few more than the server can hold."""
        length = setting.profile.capacity_prompt
        number = client.server.prompt_tokens // length + 2
        return [setting.prompts.prompt("capacity", index, length) for index in range(number)]

    async def count_running(self, client: LoadClient, prompts: list[list[int]], num_tokens: int) -> int:
        """Ask for all at once, and count those that run. Steps are held up until they are counted, so that no request
        ends before the last one has come, however slowly a busy machine sends them."""
        client.hold_up_steps(STEP_SECONDS)
        try:
            asking = asyncio.gather(*(client.ask(prompt, num_tokens) for prompt in prompts))
            most = await self.running_of_all(client, asking, len(prompts))
        finally:
            client.hold_up_steps(0)
        await asking
        return most

    async def running_of_all(self, client: LoadClient, asking: asyncio.Future[list[Answer]], number: int) -> int:
        """Look until every request either runs or waits: all have come, none has ended, and none is in prefill. As
        SGLang prefills whatever fits before it decodes, those that wait do not fit.

        Raises RequestFailed where that was never so.
        """
        in_thread = asyncio.get_running_loop().run_in_executor
        while not asking.done():
            await asyncio.wait([asking], timeout=POLL_SECONDS)
            load = await in_thread(None, client.load)
            if load.running and load.running + load.waiting == number:
                return load.running
        await asking
        raise RequestFailed(f"{number} requests were answered before those that run at once could be counted")

    async def count_cached(self, client: LoadClient, prompts: list[list[int]]) -> int:
        """Ask again, the newest first, until one is no longer there: a hit takes no room from the older ones."""
        for number, prompt in enumerate(reversed(prompts)):
            answer = await client.ask(prompt, 1)
            if answer.cached_len < HIT_SHARE * len(prompt):
                return number
        return len(prompts)
