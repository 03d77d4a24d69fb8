"""TTFT of cold prompts, at several lengths, and of a question behind the longest."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

from sglang_speed.lab.bench.load import Answer
from sglang_speed.lab.bench.profiles import QUESTION_TOKENS
from sglang_speed.lab.bench.results import Figure, Point, Reading
from sglang_speed.lab.bench.rivals import STOCK
from sglang_speed.lab.bench.scenarios.base import Measurement, Scenario, Setting, alternating
from sglang_speed.lab.common.client import RequestFailed

MOST_SHARED = 1
"""Tokens that all prompts share: BoS."""
TARGET_SHARE = 0.96
"""1.28 of four thirds."""


class Prefill(Scenario):
    name = "prefill"
    pool_name = "long_pool"

    async def run(self, setting: Setting) -> AsyncIterator[Measurement]:
        """Shortest prompts first. The longest ones stay in the tree for the decode scenario."""
        profile, sides = setting.profile, self.sides(setting.model)
        for side in sides:
            await setting.clients[side].ask(setting.prompts.prompt("warm up", 0, profile.prompt_lens[0]), 2)
        for length, repeats in zip(profile.prompt_lens, profile.prompt_repeats, strict=True):
            figures = setting.per_rival(partial(self.figure, setting, length))
            for repeat in range(repeats):
                prompt = setting.prompts.prompt("long", repeat, length)
                for side in alternating(sides, repeat):
                    answer = require_cold(await setting.clients[side].ask(prompt, 1))
                    yield Reading(figures, side, answer.ttft)
                    yield Point("TTFT by context", side, length, answer.ttft)
        figures = setting.per_rival(partial(self.figure_of_hits, setting))
        for repeat in range(repeats):
            question = setting.prompts.prompt("question", repeat, QUESTION_TOKENS + 1)[1:]
            for side in alternating(sides, repeat):
                answer = await setting.clients[side].ask([*prompt, *question], 1)
                yield Reading(figures, side, require_hit(answer).ttft)

    def figure_of_hits(self, setting: Setting, rival: str) -> Figure:
        cached = setting.profile.context_len
        floors = [setting.ttft_floor(side, cached + QUESTION_TOKENS, cached) for side in (STOCK, rival)]
        name = f"TTFT, {QUESTION_TOKENS} tokens behind {cached} cached"
        return Figure(self.name, name, "s", floors[0] / floors[1])

    def figure(self, setting: Setting, length: int, rival: str) -> Figure:
        is_longest = length == setting.profile.context_len
        ceiling = setting.ttft_floor(STOCK, length) / setting.ttft_floor(rival, length)
        target = TARGET_SHARE * ceiling if is_longest else None
        return Figure(self.name, f"TTFT, {length} tokens", "s", ceiling, target, is_headline=is_longest)


def require_hit(answer: Answer) -> Answer:
    """Raise RequestFailed if less was cached than the question leaves."""
    if answer.cached_len < answer.prompt_len - 2 * QUESTION_TOKENS:
        raise RequestFailed(
            f"{answer.cached_len} of {answer.prompt_len} tokens were cached of a question behind a prompt that was "
            "just answered: nothing else may use the server"
        )
    return answer


def require_cold(answer: Answer) -> Answer:
    """Raise RequestFailed if part of the prompt was cached."""
    if answer.cached_len > MOST_SHARED:
        raise RequestFailed(
            f"{answer.cached_len} of {answer.prompt_len} tokens of a cold prompt were cached: flush the server's "
            "cache, or restart the server"
        )
    return answer
