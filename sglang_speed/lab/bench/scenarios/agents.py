"""Agents that call tools: long results between short messages, in several conversations at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from functools import partial
from itertools import pairwise
from statistics import mean, quantiles

from sglang_speed.lab.bench.load import Answer, LoadClient
from sglang_speed.lab.bench.profiles import AgentSizes
from sglang_speed.lab.bench.results import Figure, Point, Reading
from sglang_speed.lab.bench.rivals import STOCK
from sglang_speed.lab.bench.scenarios.base import Measurement, Scenario, Setting, alternating
from sglang_speed.lab.bench.scenarios.conversations import Conversation, hit_rate

POLL_SECONDS = 0.2
TARGET = 2.0


class Agents(Scenario):
    """Each agent acts as soon as it has its answer; none waits for the others."""

    name = "agents"
    pool_name = "agents_pool"

    async def run(self, setting: Setting) -> AsyncIterator[Measurement]:
        for at_once in setting.profile.agents.at_once:
            async for measured in self.measure(setting, at_once):
                yield measured

    async def measure(self, setting: Setting, at_once: int) -> AsyncIterator[Measurement]:
        makers = (self.mean_ttft, self.p95_ttft, self.hits, self.time, self.running)
        figures = [setting.per_rival(partial(make, setting, at_once)) for make in makers]
        is_headline = at_once == setting.profile.agents.at_once[0]
        for repeat in range(setting.profile.repeats):
            for side in alternating(self.sides(setting.model), repeat):
                client = setting.clients[side]
                client.flush()
                start = time.perf_counter()
                answers, most = await self.play(setting, client, at_once)
                ttfts = [answer.ttft for answer in answers]
                seconds = time.perf_counter() - start
                values = (mean(ttfts), quantiles(ttfts, n=20)[-1], hit_rate(answers), seconds, most)
                for figure, value in zip(figures, values, strict=True):
                    yield Reading(figure, side, value)
                for answer in answers if is_headline and repeat == 0 else ():
                    yield Point("TTFT of agents by context", side, answer.prompt_len, answer.ttft)

    async def play(self, setting: Setting, client: LoadClient, at_once: int) -> tuple[list[Answer], int]:
        """The answers, and the most requests that ran at once."""
        room = asyncio.Semaphore(at_once)
        acting = asyncio.gather(
            *(
                self.act(setting, client, room, number, results)
                for number, results in enumerate(setting.profile.agents.results)
            )
        )
        most = 0
        while not acting.done():
            await asyncio.wait([acting], timeout=POLL_SECONDS)
            most = max(most, (await asyncio.to_thread(client.load)).running)
        return [answer for answers in await acting for answer in answers], most

    async def act(
        self, setting: Setting, client: LoadClient, room: asyncio.Semaphore, number: int, results: list[int]
    ) -> list[Answer]:
        """One agent: a task, then a call and a result in turns, and what it says in the end."""
        async with room:
            return await self.turns_of(setting, client, number, results)

    async def turns_of(self, setting: Setting, client: LoadClient, number: int, results: list[int]) -> list[Answer]:
        sizes, prompts = setting.profile.agents, setting.prompts
        system = prompts.prompt("agents", 0, sizes.system_tokens)
        agent = Conversation(client, list(system))
        answers = [await agent.turn(self.message(setting, "task", number, sizes.task_tokens), sizes.answer_tokens)]
        for step, length in enumerate(results):
            result = self.message(setting, f"result {step}", number, length)
            answers.append(await agent.turn(result, sizes.answer_tokens))
        return answers

    def message(self, setting: Setting, name: str, number: int, length: int) -> list[int]:
        """A message, and the beginning of the next one, which the model writes."""
        begin = setting.prompts.message
        return [*begin, *setting.prompts.tokens(name, number, length - 2 * len(begin)), *begin]

    def mean_ttft(self, setting: Setting, at_once: int, rival: str) -> Figure:
        """The ceiling assumes that a rival finds all that it has seen, and stock too if it has room for what is open at
        once; the system prompt only otherwise. A rival with a larger pool has a target where stock has no room."""
        agents = setting.profile.agents
        room, rivals_room = (setting.clients[side].server.prompt_tokens for side in (STOCK, rival))
        has_room = agents.working_set(at_once) <= room
        stock, ours = (
            mean(setting.ttft_floor(side, length, cached) for length, cached in self.turns(agents, finds_all))
            for side, finds_all in ((STOCK, has_room), (rival, True))
        )
        target = TARGET if rivals_room > room and not has_room else None
        name = f"mean TTFT, {at_once} agents at once"
        return Figure(self.name, name, "s", stock / ours, target, is_headline=True)

    def p95_ttft(self, _: Setting, at_once: int, __: str) -> Figure:
        return Figure(self.name, f"p95 of TTFT, {at_once} agents at once", "s")

    def hits(self, _: Setting, at_once: int, __: str) -> Figure:
        return Figure(self.name, f"hit rate, {at_once} agents at once", "share", better="higher")

    def time(self, _: Setting, at_once: int, __: str) -> Figure:
        return Figure(self.name, f"time until all are done, {at_once} agents at once", "s")

    def running(self, _: Setting, at_once: int, __: str) -> Figure:
        return Figure(self.name, f"requests at once, of {at_once}", "requests", better="higher")

    def turns(self, agents: AgentSizes, finds_all: bool) -> list[tuple[int, int]]:
        """Tokens of each prompt, and how many of them are cached."""
        first, *others = agents.prompts
        begun = [(first[0], 0), *((prompts[0], agents.system_tokens) for prompts in others)]
        return begun + [
            (length, before + agents.answer_tokens - 1 if finds_all else agents.system_tokens)
            for prompts in agents.prompts
            for before, length in pairwise(prompts)
        ]
