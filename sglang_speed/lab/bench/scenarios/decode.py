"""TPOT after long prompts, for one and several requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from statistics import median

from sglang_speed.lab.bench.load import Answer, LoadClient
from sglang_speed.lab.bench.results import Figure, Point, Reading
from sglang_speed.lab.bench.rivals import STOCK
from sglang_speed.lab.bench.scenarios.base import Measurement, Scenario, Setting, alternating
from sglang_speed.lab.common.client import RequestFailed

TARGET_SHARE = 0.90


class Decode(Scenario):
    name = "decode"
    pool_name = "long_pool"

    async def run(self, setting: Setting) -> AsyncIterator[Measurement]:
        """Prefill the prompts first, so that a batch decodes at once; each has its own KV."""
        profile, sides = setting.profile, self.sides(setting.model)
        prompts = [
            setting.prompts.prompt("long", index, profile.context_len) for index in range(max(profile.batch_sizes))
        ]
        for prompt in prompts:
            for side in sides:
                await setting.clients[side].ask(prompt, 1)
        for side in sides:  # warms up
            await decode_step(setting.clients[side], prompts[:1], profile.decode_tokens)
        for batch_size in profile.batch_sizes:
            figures = setting.per_rival(partial(self.figure, setting, batch_size))
            for repeat in range(profile.repeats):
                for side in alternating(sides, repeat):
                    step = await decode_step(setting.clients[side], prompts[:batch_size], profile.decode_tokens)
                    yield Reading(figures, side, step)
        for reading in self.accepted(setting):
            yield reading
        async for point in self.shorter_contexts(setting):
            yield point

    def accepted(self, setting: Setting) -> Iterator[Reading]:
        """How much of what is drafted is accepted, where any side drafts."""
        found = {side: setting.clients[side].tokens_in_a_step() for side in self.sides(setting.model)}
        if not any(found.values()):
            return
        figures = setting.per_rival(lambda _: Figure(self.name, "tokens in a step", "tokens", better="higher"))
        for side, length in found.items():
            yield Reading(figures, side, length or 1.0)

    async def shorter_contexts(self, setting: Setting) -> AsyncIterator[Measurement]:
        """Batch size 1 at every length of the prefill scenario, for the plot."""
        profile = setting.profile
        for length in profile.prompt_lens:
            prompt = setting.prompts.prompt("long", 0, length)
            for side in self.sides(setting.model):
                await setting.clients[side].ask(prompt, 1)
                step = await decode_step(setting.clients[side], [prompt], profile.decode_tokens)
                yield Point("TPOT by context", side, length, step)

    def figure(self, setting: Setting, batch_size: int, rival: str) -> Figure:
        context_len = setting.profile.context_len
        stock, ours = (setting.step_floor(side, context_len, batch_size) for side in (STOCK, rival))
        is_largest = batch_size == max(setting.profile.batch_sizes)
        target = TARGET_SHARE * stock / ours if is_largest else None
        name = f"TPOT after {context_len} tokens, batch {batch_size}"
        return Figure(self.name, name, "s", stock / ours, target, is_headline=is_largest)


async def ask_all(client: LoadClient, prompts: list[list[int]], num_tokens: int) -> list[Answer]:
    """Send all prompts at once."""
    return await asyncio.gather(*(client.ask(prompt, num_tokens) for prompt in prompts))


async def decode_step(client: LoadClient, prompts: list[list[int]], num_tokens: int) -> float:
    """Seconds of a decode step of all requests."""
    return shared_step(await ask_all(client, prompts, num_tokens))


def shared_step(answers: Sequence[Answer]) -> float:
    """Median over requests of the seconds per token while all of them decode: between the latest first token and the
    earliest last one.

    Raises RequestFailed if fewer than two tokens of a request arrived in between.
    """
    begin, end = max(one.times[0] for one in answers), min(one.times[-1] for one in answers)  # equal: all at once
    steps = []
    for answer in answers:
        inside = [at for at in answer.times if begin <= at <= end]
        if len(inside) < 2 or begin == end:
            raise RequestFailed(f"{len(answers)} requests did not decode together: too few tokens were requested")
        steps.append((inside[-1] - inside[0]) / (len(inside) - 1))
    return median(steps)
