"""Sizes of a run: one profile for two CPU cores and half an hour, one for a GPU, one to try the code."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from itertools import accumulate, islice
from typing import TypeVar

from sglang_speed.config import SpeedConfig
from sglang_speed.lab.bench.rivals import Rival, at_usual_cutoff
from sglang_speed.method.cost import Experts, ModelShape

QUESTION_TOKENS = 64
"""Of a question behind the longest prompt."""


@dataclass(frozen=True)
class Pool:
    """The KV memory of each side of a scenario.

    tokens: capacity at full depth. deep_tokens: capacity of SPEED's deep band, within the same bytes.
    running: maximum number of running requests. context: tokens of prompts that run at once, of which some may be
    selected for the deep band.
    """

    tokens: int
    deep_tokens: int
    running: int
    context: int = 0

    def deep_tokens_for(self, config: SpeedConfig) -> int:
        return self.deep_tokens + int(config.selected_share * self.context)


@dataclass(frozen=True)
class ChatSizes:
    """Alternating conversations. working_sets: final length of all conversations together, as a multiple of the pool at
    full depth."""

    first_prompt: int
    user_tokens: int
    answer_tokens: int
    num_turns: int
    working_sets: tuple[float, ...]

    @property
    def final_len(self) -> int:
        return self.first_prompt + self.num_turns * self.answer_tokens + (self.num_turns - 1) * self.user_tokens


@dataclass(frozen=True)
class TreeSizes:
    """Agents with a common system prompt and tools; each step adds an observation and an action."""

    system_tokens: int
    observation_tokens: int
    action_tokens: int
    num_branches: int
    num_steps: int


@dataclass(frozen=True)
class AgentSizes:
    """Agents that call tools, each in a conversation of its own behind a common system prompt.

    system_tokens: of the system prompt with its tools. task_tokens: what a user asks. result_tokens, num_turns: least
    and most. answer_tokens: a call of a tool, or what is said in the end. at_once: numbers of agents that act at the
    same time, the headline's first; when one ends, the next begins.
    """

    system_tokens: int
    task_tokens: int
    result_tokens: tuple[int, int]
    answer_tokens: int
    num_turns: tuple[int, int]
    num_agents: int
    at_once: tuple[int, ...]

    @property
    def results(self) -> list[list[int]]:
        """Tokens of each result of a tool, by agent; the same in every run."""
        draw = random.Random(0)
        return [
            [draw.randint(*self.result_tokens) for _ in range(draw.randint(*self.num_turns) - 1)]
            for _ in range(self.num_agents)
        ]

    @property
    def prompts(self) -> list[list[int]]:
        """Tokens of each prompt, by agent."""
        first, answer = self.system_tokens + self.task_tokens, self.answer_tokens
        return [list(accumulate((answer + result for result in results), initial=first)) for results in self.results]

    def working_set(self, at_once: int) -> int:
        """The most tokens of conversations that are open at once, if all take turns; the system prompt counts once."""
        waiting = iter([[length - self.system_tokens for length in prompts] for prompts in self.prompts])
        acting: list[list[int]] = list(islice(waiting, at_once))
        most = 0
        while acting:
            most = max(most, sum(own for own, *_ in acting))
            acting = [later for _, *later in acting if later]
            acting += islice(waiting, at_once - len(acting))
        return self.system_tokens + most


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What the profiles of all benchmarks have.

    arch, shape, num_layers: the model with random weights; arch is its model type. prefill_layers: of SPEED.
    copy_bytes, matrix_size: how the machine's rates are measured.
    is_rehearsal: too small for a figure to mean anything, so nothing has a target.
    """

    device: str
    shape: ModelShape
    num_layers: int
    prefill_layers: int
    prompt_lens: tuple[int, ...]
    copy_bytes: int
    matrix_size: int
    arch: str = "llama"
    is_rehearsal: bool = False

    @property
    def context_len(self) -> int:
        """The longest prompt, after which decoding is timed."""
        return self.prompt_lens[-1]


@dataclass(frozen=True, kw_only=True)
class Profile(Sizes):
    """Sizes of `sglang-speed bench`. Its random model is used where the user names no model.

    rivals: what of the random model is compared with stock.
    prompt_lens: prompts of the prefill scenario. prompt_repeats: samples of each. repeats: samples of other figures.
    load_format: `dummy` makes the random model without a weight file.
    dtype: of weights and KV cache on both sides, as `of_dtype` sets it.
    """

    load_format: str
    prompt_repeats: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    decode_tokens: int
    repeats: int
    overhead_len: int
    overhead_repeats: int
    step_requests: int
    capacity_prompt: int
    capacity_tokens: int
    chat: ChatSizes
    tree: TreeSizes
    agents: AgentSizes
    long_pool: Pool
    cache_pool: Pool
    agents_pool: Pool
    step_pool: Pool
    rivals: tuple[Rival, ...] = (Rival(),)
    dtype: str = "bfloat16"
    flags: tuple[str, ...] = ()

    @property
    def tiny_rivals(self) -> tuple[Rival, ...]:
        """Those of the tiny model, which has fewer layers."""
        return tuple(map(at_usual_cutoff, self.rivals))

    @property
    def longest_requests(self) -> dict[str, int]:
        """Tokens of the longest request of each scenario, but for those of the tiny model."""
        tree, agents = self.tree, self.agents
        return {
            "prefill": self.context_len + QUESTION_TOKENS,
            "decode": self.context_len + self.decode_tokens,
            "overhead": self.overhead_len + self.decode_tokens,
            "capacity": self.capacity_prompt + self.capacity_tokens,
            "chat": self.chat.final_len,
            "tree": tree.system_tokens + tree.num_steps * (tree.observation_tokens + tree.action_tokens),
            "agents": max(prompts[-1] for prompts in agents.prompts) + agents.answer_tokens,
        }


# about 100M parameters
CPU = Profile(
    device="cpu",
    shape=ModelShape(576, 1344, 6, 3, 64, 4096),
    num_layers=32,
    prefill_layers=24,
    load_format="auto",
    prompt_lens=(1024, 4096, 8192),
    prompt_repeats=(3, 2, 4),
    batch_sizes=(1, 4),
    decode_tokens=24,
    repeats=2,
    overhead_len=1024,
    overhead_repeats=6,
    step_requests=8,
    capacity_prompt=384,
    capacity_tokens=8,
    chat=ChatSizes(first_prompt=640, user_tokens=48, answer_tokens=4, num_turns=3, working_sets=(1.2,)),
    tree=TreeSizes(system_tokens=1024, observation_tokens=96, action_tokens=16, num_branches=4, num_steps=2),
    # a quarter of what agents have: longer ones take a CPU hours
    agents=AgentSizes(
        2048, 48, result_tokens=(125, 1000), answer_tokens=25, num_turns=(6, 8), num_agents=8, at_once=(4, 2, 3)
    ),
    agents_pool=Pool(tokens=8192, deep_tokens=576, running=8, context=8192),
    long_pool=Pool(tokens=48 * 1024, deep_tokens=1024, running=8, context=4 * 8192),
    cache_pool=Pool(tokens=6144, deep_tokens=576, running=32),
    step_pool=Pool(tokens=16384, deep_tokens=2048, running=16),
    copy_bytes=2**28,
    matrix_size=2048,
    flags=("--device", "cpu"),
)
# the shape of Llama 3.1 8B
GPU = Profile(
    device="cuda",
    shape=ModelShape(4096, 14336, 32, 8, 128, 128256),
    num_layers=32,
    prefill_layers=24,
    load_format="dummy",
    prompt_lens=(8192, 32768, 122880),
    prompt_repeats=(7, 5, 4),
    batch_sizes=(1, 2),
    decode_tokens=128,
    repeats=3,
    overhead_len=8192,
    overhead_repeats=9,
    step_requests=64,
    capacity_prompt=8192,
    capacity_tokens=128,
    chat=ChatSizes(first_prompt=8192, user_tokens=512, answer_tokens=128, num_turns=4, working_sets=(0.8, 1.2, 1.6)),
    tree=TreeSizes(system_tokens=16384, observation_tokens=1024, action_tokens=128, num_branches=16, num_steps=4),
    agents=AgentSizes(
        2048, 192, result_tokens=(500, 4000), answer_tokens=100, num_turns=(10, 30), num_agents=24, at_once=(8, 5, 6)
    ),
    agents_pool=Pool(tokens=163840, deep_tokens=8192, running=64, context=163840),
    long_pool=Pool(tokens=2 * (122880 + 1024), deep_tokens=4096, running=8, context=2 * 122880),
    cache_pool=Pool(tokens=131072, deep_tokens=8192, running=64),
    step_pool=Pool(tokens=131072, deep_tokens=16384, running=128),
    copy_bytes=8 * 2**30,
    matrix_size=8192,
)
# the same code in two minutes on a CPU; its figures mean nothing
REHEARSAL = Profile(
    device="cpu",
    shape=ModelShape(64, 128, 4, 2, 16, 512),
    num_layers=8,
    prefill_layers=6,
    load_format="auto",
    prompt_lens=(64, 128, 256),
    prompt_repeats=(2, 2, 2),
    batch_sizes=(1, 2),
    decode_tokens=32,
    repeats=1,
    overhead_len=64,
    overhead_repeats=2,
    step_requests=2,
    capacity_prompt=128,
    capacity_tokens=8,
    chat=ChatSizes(first_prompt=96, user_tokens=16, answer_tokens=8, num_turns=3, working_sets=(0.8, 1.2)),
    tree=TreeSizes(system_tokens=64, observation_tokens=16, action_tokens=8, num_branches=2, num_steps=2),
    agents=AgentSizes(64, 16, result_tokens=(16, 64), answer_tokens=8, num_turns=(3, 4), num_agents=8, at_once=(4,)),
    agents_pool=Pool(tokens=288, deep_tokens=128, running=8, context=288),
    long_pool=Pool(tokens=2 * (256 + 64), deep_tokens=128, running=4, context=2 * 256),
    cache_pool=Pool(tokens=1024, deep_tokens=256, running=16),
    step_pool=Pool(tokens=2048, deep_tokens=256, running=4),
    copy_bytes=2**24,
    matrix_size=256,
    flags=("--device", "cpu"),
    is_rehearsal=True,
)
PUBLISHED = {
    "llama": (GPU.shape, GPU.num_layers, GPU.prefill_layers),  # Llama 3.1 8B
    "qwen3": (ModelShape(4096, 12288, 32, 8, 128, 151936), 36, 27),  # Qwen3 8B
    "qwen3_moe": (ModelShape(2048, 6144, 32, 4, 128, 151936, experts=Experts(128, 8, 768)), 48, 36),  # Qwen3 30B A3B
}
"""Shape, layers and prefill layers of the models that a GPU gets, by architecture."""
AnySizes = TypeVar("AnySizes", bound=Sizes)


def of_architecture(sizes: AnySizes, arch: str) -> AnySizes:
    """The same run with a model of another architecture. On a CPU the shape stays; a mixture has eight experts of half
    the size, two for each token."""
    if sizes.device == "cuda":
        shape, num_layers, prefill_layers = PUBLISHED[arch]
        return replace(sizes, arch=arch, shape=shape, num_layers=num_layers, prefill_layers=prefill_layers)
    experts = Experts(8, 2, sizes.shape.intermediate_size // 2) if PUBLISHED[arch][0].experts else None
    return replace(sizes, arch=arch, shape=replace(sizes.shape, experts=experts))


def of_dtype(profile: Profile, dtype: str) -> Profile:
    """The same run in `bfloat16` or `float32`."""
    num_bytes = {"bfloat16": 2, "float32": 4}[dtype]
    shape = replace(profile.shape, kv_dtype_bytes=num_bytes, weight_dtype_bytes=num_bytes)
    return replace(profile, dtype=dtype, shape=shape)


PROFILES: dict[str, Profile] = {"cpu": CPU, "gpu": GPU, "rehearsal": REHEARSAL}
