"""The measured requests: from the user's chats, or the model's answers to built-in prompts.

Owns their selection: with prompt tokens that a cutoff leaves out, up to a length, and as many of each kind as a
recommendation needs (`evidence.py`).
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import GenerationConfig, PreTrainedModel

from sglang_speed.errors import ConfigError
from sglang_speed.lab.common.chat import (
    Chat,
    ChatFormat,
    Conversation,
    Message,
    read_chats,
    read_conversations,
)
from sglang_speed.lab.cutoff.evidence import KINDS, LONG, LONG_GAP, LOOKUPS, NEEDED_OF_KIND, TOOLS, kinds_of
from sglang_speed.lab.cutoff.request import Request
from sglang_speed.policies import DepthPolicy
from sglang_speed.reference.modeling import ReferenceModel, stock_class

BATCH_SIZE = 8
FEWEST = 2
BUILT_IN_FILE = Path(__file__).with_name("prompts.jsonl")
"""Drawn by recipes/speed_llama/built_in.py."""
# not every answer to a lookup prompt copies from the text
BUILT_IN_QUOTAS = {LONG: NEEDED_OF_KIND, LOOKUPS: 2 * NEEDED_OF_KIND, TOOLS: NEEDED_OF_KIND}
BUILT_IN_LOOKUPS = ("needles", "lookups")
TOOL_ROLES = ("tool", "function", "ipython")

Candidate = TypeVar("Candidate")


@dataclass(frozen=True)
class Limits:
    """Limits of the selection. num: most requests. max_tokens: of prompt and response. seed: random seed."""

    num: int
    max_tokens: int
    seed: int

    def __post_init__(self) -> None:
        for flag, value, least in (("--samples", self.num, FEWEST), ("--max-tokens", self.max_tokens, 64)):
            if value < least:
                raise ConfigError(f"{flag} {value} is below {least}: too little to measure a model; raise it")


def requests_in_chats(path: Path, chat_format: ChatFormat, policy: DepthPolicy, limits: Limits) -> list[Request]:
    """Random assistant turns of a JSONL file, with as many of each kind as a recommendation needs if the file has them;
    ConfigError if fewer than two can be used.
    """
    both = zip(read_conversations(path, chat_format), read_chats(path), strict=True)
    found = [one for conversation, chat in both for one in requests_of(conversation, tool_turns(chat, chat_format))]
    usable = [one for one in found if len(one.token_ids) <= limits.max_tokens and has_gap(one.prompt_len, policy)]
    if len(usable) < FEWEST:
        raise ConfigError(
            f"{path} has {len(usable)} of {FEWEST} needed answers, out of {len(found)}, with at most "
            f"{limits.max_tokens} tokens and a prompt longer than the anchors and the tail: give more, or longer "
            "prompts, or raise --max-tokens"
        )
    random.Random(limits.seed).shuffle(usable)
    return choose(usable, lambda one: kinds_of(one, policy), limits.num, dict.fromkeys(KINDS, NEEDED_OF_KIND))


def requests_of(conversation: Conversation, with_tools: Collection[int] = ()) -> Iterator[Request]:
    """Each assistant turn with everything before it as its prompt; a first turn has none and is skipped.

    with_tools: indices of turns that are offered or call tools.
    """
    for index, turn in enumerate(conversation.turns):
        if turn.start > 0 and len(turn) > 0:
            yield Request(conversation.token_ids[: turn.stop], turn.start, index in with_tools)


def tool_turns(chat: Chat, chat_format: ChatFormat) -> set[int]:
    """Indices of assistant turns that are offered tools in the chat template, are a call, or follow one."""
    turns = [index for index, message in enumerate(chat.messages) if message["role"] == "assistant"]
    if chat.tools and turns:
        shown, hidden = (
            chat_format.render(one, turns[0], answer_follows=True) for one in (chat, replace(chat, tools=None))
        )
        if shown != hidden:
            return set(range(len(turns)))
    first = next((index for index, message in enumerate(chat.messages) if _is_of_a_tool(message)), len(chat.messages))
    return {turn for turn, index in enumerate(turns) if index >= first}


def _is_of_a_tool(message: Message) -> bool:
    """Whether a message is a tool call, possibly as JSON text, or a tool's result."""
    said = (message.get("content") or "") if message["role"] == "assistant" else ""
    is_call = re.search(r'"name"\s*:', said) and re.search(r'"(arguments|parameters)"\s*:', said)
    return bool(is_call or message.get("tool_calls") or message["role"] in TOOL_ROLES)


def choose(
    candidates: Iterable[Candidate],
    kinds: Callable[[Candidate], Collection[str]],
    num: int,
    quotas: Mapping[str, int],
) -> list[Candidate]:
    """The first `num` candidates, with places reserved for `quotas` of each kind."""
    missing = Counter(quotas)
    taken: list[Candidate] = []
    passed: list[Candidate] = []
    for candidate in candidates:
        if len(taken) == num:
            break
        fills = [kind for kind in kinds(candidate) if missing[kind] > 0]
        if fills or len(taken) + missing.total() < num:
            missing.subtract(fills)
            taken.append(candidate)
        else:
            passed.append(candidate)
    return taken + passed[: num - len(taken)]


def has_gap(prompt_len: int, policy: DepthPolicy) -> bool:
    """Whether a prompt has tokens that are left out of the deep band; without, all cutoffs are equal."""
    return policy.deep_tokens(prompt_len).gap > 0


@dataclass(frozen=True)
class Prompt:
    """A built-in prompt without answer. kinds: of `evidence.py`."""

    token_ids: tuple[int, ...]
    kinds: frozenset[str]

    @property
    def wants_exactness(self) -> bool:
        """Whether there is one right answer: a value of the text, or a call."""
        return bool(self.kinds & {LOOKUPS, TOOLS})


def built_in_prompts(chat_format: ChatFormat, policy: DepthPolicy, limits: Limits, response_len: int) -> list[Prompt]:
    """Random prompts of BUILT_IN_FILE, with BUILT_IN_QUOTAS of each kind."""
    chats = read_built_in()
    if limits.num > len(chats):
        raise ConfigError(
            f"--samples {limits.num} is more than the {len(chats)} built-in prompts: lower it, or give chats "
            "with --data"
        )
    random.Random(limits.seed).shuffle(chats)
    most = limits.max_tokens - response_len
    found = (_prompt(name, chat_format.prompt_ids(chat), policy) for name, chat in chats)
    usable = (one for one in found if len(one.token_ids) <= most and has_gap(len(one.token_ids), policy))
    prompts = choose(usable, lambda one: one.kinds, limits.num, BUILT_IN_QUOTAS)
    if len(prompts) < FEWEST:
        raise ConfigError(
            f"{len(prompts)} of {FEWEST} needed built-in prompts have at most {most} tokens and more than the anchors "
            "and the tail: raise --max-tokens or lower --tail-tokens"
        )
    return prompts


def read_built_in() -> list[tuple[str, Chat]]:
    """The built-in prompts, each with its kind."""
    lines = map(json.loads, BUILT_IN_FILE.read_text(encoding="utf-8").split("\n")[:-1])
    return [(line["kind"], Chat(line["messages"])) for line in lines]


def _prompt(name: str, token_ids: Sequence[int], policy: DepthPolicy) -> Prompt:
    """name: the prompt's kind."""
    belongs = {
        LONG: policy.deep_tokens(len(token_ids)).gap >= LONG_GAP,
        LOOKUPS: name in BUILT_IN_LOOKUPS,
        TOOLS: name == "tools",
    }
    return Prompt(tuple(token_ids), frozenset(kind for kind, does in belongs.items() if does))


def generate_responses(
    model: ReferenceModel,
    prompts: Sequence[Sequence[int]],
    stop_ids: Sequence[int],
    response_len: int,
    seed: int,
    advance: Callable[[int], Any] = lambda count: None,
    is_greedy: bool = False,
) -> list[Request]:
    """Generate a response to each prompt at full depth, at temperature 1, or greedily.

    advance: called with the number of requests finished since the last call.
    """
    torch.manual_seed(seed)
    plain = full_depth(model)
    requests = []
    for batch in batches_of_similar_length(prompts):
        requests += [
            Request((*prompt, *response), len(prompt))
            for prompt, response in _generate(plain, batch, stop_ids, response_len, is_greedy)
        ]
        advance(len(batch))
    return requests


def full_depth(model: ReferenceModel) -> PreTrainedModel:
    """transformers' own model with the same weights, since the reference does not generate in batches."""
    with torch.device("meta"):
        plain: Any = stock_class(model.config)(model.config)
    plain.model, plain.lm_head = model.model, model.lm_head
    stock: PreTrainedModel = plain.eval()
    return stock


def batches_of_similar_length(prompts: Sequence[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
    """Sorted by length, for little padding."""
    by_length = sorted(prompts, key=len)
    for start in range(0, len(by_length), BATCH_SIZE):
        yield by_length[start : start + BATCH_SIZE]


def _generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    stop_ids: Sequence[int],
    response_len: int,
    is_greedy: bool,
) -> Iterator[tuple[Sequence[int], list[int]]]:
    """Yield each prompt with its response, which ends with a stop token or after `response_len` tokens."""
    longest = max(map(len, prompts))
    padded = [[stop_ids[0]] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    visible = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    draws = {"do_sample": False} if is_greedy else {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    sampling = GenerationConfig(
        **draws,
        max_new_tokens=response_len,
        eos_token_id=list(stop_ids),
        pad_token_id=stop_ids[0],
    )
    ids = model.generate(
        torch.tensor(padded, device=model.device),
        attention_mask=torch.tensor(visible, device=model.device),
        generation_config=sampling,
    )
    for prompt, said in zip(prompts, ids[:, longest:].tolist(), strict=True):
        ends = [place + 1 for place, token in enumerate(said) if token in stop_ids]
        yield prompt, said[: min(ends, default=len(said))]
