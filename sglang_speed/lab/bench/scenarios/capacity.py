"""Prompts in the radix tree and running requests that fit in the same bytes of KV."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

from sglang_speed.lab.bench.load import LoadClient
from sglang_speed.lab.bench.results import Figure, Reading
from sglang_speed.lab.bench.scenarios.base import Measurement, Scenario, Setting
from sglang_speed.lab.common.client import RequestFailed
from sglang_speed.method.cost import kept_layers

TARGET_SHARE = 0.975
"""1.30 of four thirds."""
STEP_SECONDS = 1.0
"""Delay of each step while running requests are counted, so that none is missed; they run for several steps."""
POLL_SECONDS = 0.1
HIT_SHARE = 0.5


class Capacity(Scenario):
    name = "capacity"
    pool_name = "cache_pool"

    async def run(self, setting: Setting) -> AsyncIterator[Measurement]:
        """Send more distinct prompts than any side holds at once; then count those still cached."""
        profile = setting.profile
        figures = [setting.per_rival(partial(make, setting)) for make in (self.size, self.running, self.cached)]
        for side in self.sides(setting.model):
            client = setting.clients[side]
            prompts = self.prompts(setting, client)
            client.flush()
            size: float = client.server.prompt_tokens
            running = await self.count_running(client, prompts, profile.capacity_tokens)
            cached = await self.count_cached(client, prompts)
            for figure, value in zip(figures, (size, running, cached), strict=True):
                yield Reading(figure, side, value)

    def size(self, setting: Setting, rival: str) -> Figure:
        """The ceiling: without what deep bands compute, the same bytes hold more tokens by the share of layers that
        store them."""
        depth = self.depth(setting, rival)
        name = "prompt tokens in the pool"
        return Figure(self.name, name, "tokens", depth, TARGET_SHARE * depth, "higher", is_headline=True)

    def running(self, setting: Setting, rival: str) -> Figure:
        return Figure(self.name, "requests that run at once", "requests", self.whole(setting, rival), better="higher")

    def cached(self, setting: Setting, rival: str) -> Figure:
        name = f"prompts of {setting.profile.capacity_prompt} tokens that stay"
        return Figure(self.name, name, "prompts", self.whole(setting, rival), better="higher")

    def depth(self, setting: Setting, rival: str) -> float:
        config = setting.model.rivals[rival]
        return config.num_layers / kept_layers(setting.model.shape, config)

    def whole(self, setting: Setting, rival: str) -> float:
        """The same ceiling in whole requests."""
        profile = setting.profile
        tokens, each = profile.cache_pool.tokens, profile.capacity_prompt + profile.capacity_tokens
        return (tokens * self.depth(setting, rival) // each) / (tokens // each)

    def prompts(self, setting: Setting, client: LoadClient) -> list[list[int]]:
        """A few more than the server can hold."""
        length = setting.profile.capacity_prompt
        number = client.server.prompt_tokens // length + 2
        return [setting.prompts.prompt("capacity", index, length) for index in range(number)]

    async def count_running(self, client: LoadClient, prompts: list[list[int]], num_tokens: int) -> int:
        """Send all prompts together and count the running requests. Steps are delayed meanwhile, so that no request
        ends before that."""
        client.delay_steps(STEP_SECONDS)
        try:
            asking = asyncio.ensure_future(asyncio.to_thread(client.ask_together, prompts, num_tokens))
            most = await self.running_in_a_decode_step(client, asking, len(prompts))
        finally:
            client.delay_steps(0)
        await asking
        return most

    async def running_in_a_decode_step(self, client: LoadClient, asking: asyncio.Future[None], number: int) -> int:
        """Poll until a decode step has passed in which every request ran or waited: the running ones have got slots,
        and are as many as before. SGLang prefills whatever fits before it decodes, so waiting requests do not fit.

        Raises RequestFailed if that never happened.
        """
        before = None
        while not asking.done():
            await asyncio.wait([asking], timeout=POLL_SECONDS)
            load = await asyncio.to_thread(client.load)
            is_whole = load.running > 0 and load.running + load.waiting == number
            if before is None or not is_whole or load.running != before.running:
                before = load if is_whole else None
            elif load.used_tokens > before.used_tokens:
                return load.running
        await asking
        raise RequestFailed(f"{number} requests were answered before the running ones could be counted")

    async def count_cached(self, client: LoadClient, prompts: list[list[int]]) -> int:
        """Send the prompts again, newest first, until one misses: a hit takes no room from older ones."""
        for number, prompt in enumerate(reversed(prompts)):
            answer = await client.ask(prompt, 1)
            if answer.cached_len < HIT_SHARE * len(prompt):
                return number
        return len(prompts)
