"""Conversations that grow by the server's own answers: a chat, and agents on one tree."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import mean

from sglang_speed.lab.bench.load import Answer, LoadClient
from sglang_speed.lab.bench.profiles import ChatSizes, Profile, TreeSizes
from sglang_speed.lab.bench.results import Figure, Point, Reading
from sglang_speed.lab.bench.rivals import STOCK
from sglang_speed.lab.bench.scenarios.base import Measurement, Scenario, Setting, alternating

CHAT_TARGET = 2.0


@dataclass
class Conversation:
    """history: all tokens so far, answers included."""

    client: LoadClient
    history: list[int] = field(default_factory=list)

    async def turn(self, new_tokens: Sequence[int], max_new_tokens: int) -> Answer:
        self.history += new_tokens
        answer = await self.client.ask(self.history, max_new_tokens)
        self.history += answer.ids
        return answer


@dataclass(frozen=True)
class AnsweredTurns:
    """The answers of a run, turn by turn."""

    turns: list[list[Answer]]

    @property
    def answers(self) -> list[Answer]:
        return [answer for turn in self.turns for answer in turn]

    @property
    def mean_ttft(self) -> float:
        return mean(answer.ttft for answer in self.answers)

    @property
    def hit_rate(self) -> float:
        return hit_rate(self.answers)


def hit_rate(answers: Sequence[Answer]) -> float:
    """Cached share of the prompt tokens."""
    return sum(answer.cached_len for answer in answers) / sum(answer.prompt_len for answer in answers)


class MultiTurnChat(Scenario):
    """Users take turns; their conversations together are about as long as stock's pool."""

    name = "chat"
    pool_name = "cache_pool"

    async def run(self, setting: Setting) -> AsyncIterator[Measurement]:
        for working_set in setting.profile.chat.working_sets:
            makers = (self.ttft, self.hits)
            figures = [setting.per_rival(partial(make, setting, working_set)) for make in makers]
            for repeat in range(setting.profile.repeats):
                for side in alternating(self.sides(setting.model), repeat):
                    setting.clients[side].flush()
                    answered = AnsweredTurns([])
                    async for point in self.play(setting, side, working_set, answered):
                        if repeat == 0:
                            yield point
                    for figure, value in zip(figures, (answered.mean_ttft, answered.hit_rate), strict=True):
                        yield Reading(figure, side, value)

    async def play(
        self, setting: Setting, side: str, working_set: float, answered: AnsweredTurns
    ) -> AsyncIterator[Measurement]:
        chat, client = setting.profile.chat, setting.clients[side]
        users = [Conversation(client) for _ in range(num_users(setting.profile, working_set))]
        start = time.perf_counter()
        for turn in range(chat.num_turns):
            answered.turns.append([])
            for number, user in enumerate(users):
                answer = await user.turn(self.new_tokens(setting, number, turn), chat.answer_tokens)
                answered.turns[-1].append(answer)
                held = client.kv_bytes_held(setting.model.shape)
                yield Point(f"KV held, {working_set:g}", side, time.perf_counter() - start, held)
            yield Point(f"hit rate by turn, {working_set:g}", side, turn + 1, hit_rate(answered.turns[-1]))
            ttft = mean(answer.ttft for answer in answered.turns[-1])
            yield Point(f"TTFT by turn, {working_set:g}", side, turn + 1, ttft)

    def new_tokens(self, setting: Setting, user: int, turn: int) -> list[int]:
        chat = setting.profile.chat
        if turn == 0:
            return setting.prompts.prompt("chat", user, chat.first_prompt)
        return setting.prompts.tokens(f"chat turn {turn}", user, chat.user_tokens)

    def ttft(self, setting: Setting, working_set: float, rival: str) -> Figure:
        """The ceiling assumes that a side always hits if the working set fits in its tree, and that stock never hits
        otherwise; None if it does not fit in the rival's."""
        chat = setting.profile.chat
        tokens = num_users(setting.profile, working_set) * chat.final_len
        fits = {side: tokens <= setting.clients[side].server.prompt_tokens for side in (STOCK, rival)}
        stock = mean(setting.ttft_floor(STOCK, n, cached if fits[STOCK] else 0) for n, cached in turns(chat))
        ours = mean(setting.ttft_floor(rival, n, cached) for n, cached in turns(chat))
        ceiling = stock / ours if fits[rival] else None
        target = CHAT_TARGET if fits[rival] and not fits[STOCK] else None
        name = f"mean TTFT, working set {working_set:g}x"
        return Figure(self.name, name, "s", ceiling, target, is_headline=target is not None)

    def hits(self, _: Setting, working_set: float, __: str) -> Figure:
        return Figure(self.name, f"hit rate, working set {working_set:g}x", "share", better="higher")


class AgentTree(Scenario):
    """Concurrent agents with a common system prompt and tools."""

    name = "tree"
    pool_name = "cache_pool"

    async def run(self, setting: Setting) -> AsyncIterator[Measurement]:
        ttft, seconds, hits = (setting.per_rival(partial(make, setting)) for make in (self.ttft, self.time, self.hits))
        for repeat in range(setting.profile.repeats):
            for side in alternating(self.sides(setting.model), repeat):
                setting.clients[side].flush()
                start = time.perf_counter()
                answered = await self.play(setting, side)
                yield Reading(seconds, side, time.perf_counter() - start)
                yield Reading(ttft, side, answered.mean_ttft)
                yield Reading(hits, side, answered.hit_rate)

    async def play(self, setting: Setting, side: str) -> AnsweredTurns:
        """Prefill the system prompt once, then let all agents act together, step by step."""
        tree = setting.profile.tree
        system = setting.prompts.prompt("system", 0, tree.system_tokens)
        await setting.clients[side].ask(system, 1)
        agents = [Conversation(setting.clients[side], list(system)) for _ in range(tree.num_branches)]
        answered = AnsweredTurns([])
        for step in range(tree.num_steps):
            seen = [
                setting.prompts.tokens(f"step {step}", number, tree.observation_tokens)
                for number in range(tree.num_branches)
            ]
            acting = (agent.turn(new, tree.action_tokens) for agent, new in zip(agents, seen, strict=True))
            answered.turns.append(list(await asyncio.gather(*acting)))
        return answered

    def ttft(self, setting: Setting, rival: str) -> Figure:
        """The ceiling assumes that both sides find all that they have seen."""
        tree = setting.profile.tree
        stock, ours = (
            sum(setting.ttft_floor(side, length, cached) for length, cached in steps(tree)) for side in (STOCK, rival)
        )
        return Figure(self.name, f"mean TTFT, {tree.num_branches} agents", "s", stock / ours, is_headline=True)

    def time(self, _: Setting, __: str) -> Figure:
        return Figure(self.name, "time for all steps", "s")

    def hits(self, _: Setting, __: str) -> Figure:
        return Figure(self.name, "hit rate", "share", better="higher")


def num_users(profile: Profile, working_set: float) -> int:
    """The number at which all conversations together end at `working_set` times the pool at full depth."""
    return round(working_set * profile.cache_pool.tokens / profile.chat.final_len)


def turns(chat: ChatSizes) -> list[tuple[int, int]]:
    """Prompt tokens of each turn, and how many of them an unlimited tree would hold."""
    grown = chat.user_tokens + chat.answer_tokens
    lengths = [chat.first_prompt + turn * grown for turn in range(chat.num_turns)]
    return [(length, 0 if turn == 0 else length - chat.user_tokens - 1) for turn, length in enumerate(lengths)]


def steps(tree: TreeSizes) -> list[tuple[int, int]]:
    """The same for each step of an agent."""
    grown = tree.observation_tokens + tree.action_tokens
    lengths = [tree.system_tokens + tree.observation_tokens + step * grown for step in range(tree.num_steps)]
    return [(length, length - tree.observation_tokens - (step > 0)) for step, length in enumerate(lengths)]
