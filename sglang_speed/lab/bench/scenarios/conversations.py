"""Conversations that grow by the server's own answers: a chat, and agents on one tree."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from statistics import mean

from sglang_speed.lab.bench.load import Answer, LoadClient
from sglang_speed.lab.bench.profiles import ChatSizes, Profile, TreeSizes
from sglang_speed.lab.bench.results import Figure, Point, Sample
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
            figures = self.figures(setting, working_set)
            for repeat in range(setting.profile.repeats):
                for side in alternating(self.sides, repeat):
                    setting.clients[side].flush()
                    answered = AnsweredTurns([])
                    async for point in self.play(setting, side, working_set, answered):
                        if repeat == 0:
                            yield point
                    for figure, value in zip(figures, (answered.mean_ttft, answered.hit_rate), strict=True):
                        yield Sample(figure, side, value)

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

    def figures(self, setting: Setting, working_set: float) -> tuple[Figure, Figure]:
        """Mean TTFT and hit rate. The ceiling assumes that a side always hits if the working set fits in its tree, and
        that stock never hits otherwise; None if it does not fit in SPEED's."""
        chat = setting.profile.chat
        tokens = num_users(setting.profile, working_set) * chat.final_len
        fits = {side: tokens <= setting.clients[side].server.prompt_tokens for side in self.sides}
        stock = mean(setting.ttft_floor("stock", n, cached if fits["stock"] else 0) for n, cached in turns(chat))
        speed = mean(setting.ttft_floor("speed", n, cached) for n, cached in turns(chat))
        ceiling = stock / speed if fits["speed"] else None
        target = CHAT_TARGET if fits["speed"] and not fits["stock"] else None
        name = f"working set {working_set:g}x"
        ttft = Figure(self.name, f"mean TTFT, {name}", "s", ceiling, target, is_headline=target is not None)
        return ttft, Figure(self.name, f"hit rate, {name}", "share", better="higher")


class AgentTree(Scenario):
    """Concurrent agents with a common system prompt and tools."""

    name = "tree"
    pool_name = "cache_pool"

    async def run(self, setting: Setting) -> AsyncIterator[Measurement]:
        ttft, seconds, hits = self.figures(setting)
        for repeat in range(setting.profile.repeats):
            for side in alternating(self.sides, repeat):
                setting.clients[side].flush()
                start = time.perf_counter()
                answered = await self.play(setting, side)
                yield Sample(seconds, side, time.perf_counter() - start)
                yield Sample(ttft, side, answered.mean_ttft)
                yield Sample(hits, side, answered.hit_rate)

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

    def figures(self, setting: Setting) -> tuple[Figure, Figure, Figure]:
        """The ceiling of TTFT assumes that both sides find all that they have seen."""
        tree = setting.profile.tree
        stock, speed = (
            sum(setting.ttft_floor(side, length, cached) for length, cached in steps(tree)) for side in self.sides
        )
        return (
            Figure(self.name, f"mean TTFT, {tree.num_branches} agents", "s", stock / speed, is_headline=True),
            Figure(self.name, "time for all steps", "s"),
            Figure(self.name, "hit rate", "share", better="higher"),
        )


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
