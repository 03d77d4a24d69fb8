"""Where the measured requests come from: the user's chats, or what the model itself says.

Owns which requests are taken: those with prompt tokens that a cutoff leaves out, and none above a length.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LlamaForCausalLM

from sglang_speed.errors import ConfigError
from sglang_speed.layers.request import Request
from sglang_speed.method import DepthPolicy
from sglang_speed.reference.modeling import SpeedLlamaForCausalLM
from sglang_speed.training.conversations import Chat, ChatFormat, Conversation, Message, read_conversations

BATCH_SIZE = 8
MOST_TRIES = 4
FEWEST = 2


@dataclass(frozen=True)
class Limits:
    """Which requests are taken. num: at most so many. max_tokens: of prompt and response. seed: of every draw."""

    num: int
    max_tokens: int
    seed: int

    def __post_init__(self) -> None:
        for flag, value, least in (("--samples", self.num, FEWEST), ("--max-tokens", self.max_tokens, 64)):
            if value < least:
                raise ConfigError(f"{flag} {value} is below {least}: less says nothing about a model; raise it")


def requests_in_chats(path: Path, chat_format: ChatFormat, policy: DepthPolicy, limits: Limits) -> list[Request]:
    """A random choice of the assistant turns of a JSONL file; ConfigError where fewer than two can be used."""
    conversations = read_conversations(path, chat_format)
    found = [request for conversation in conversations for request in requests_of(conversation)]
    usable = [one for one in found if len(one.token_ids) <= limits.max_tokens and has_gap(one.prompt_len, policy)]
    if len(usable) < FEWEST:
        raise ConfigError(
            f"{path} has {len(usable)} of {FEWEST} answers that an error needs, out of {len(found)}, with at most "
            f"{limits.max_tokens} tokens and a prompt longer than the anchors and the tail: give more, or longer "
            "prompts, or raise --max-tokens"
        )
    return random.Random(limits.seed).sample(usable, min(limits.num, len(usable)))


def requests_of(conversation: Conversation) -> Iterator[Request]:
    """Each assistant turn with all that stands before it; a turn at the very start has no prompt and is left out."""
    for turn in conversation.turns:
        if turn.start > 0 and len(turn) > 0:
            yield Request(conversation.token_ids[: turn.stop], turn.start)


def has_gap(prompt_len: int, policy: DepthPolicy) -> bool:
    """Whether a prompt has tokens that a cutoff leaves out of the deep band; all cutoffs are one without them."""
    return policy.deep_tokens(prompt_len).gap > 0


def built_in_prompts(
    chat_format: ChatFormat, policy: DepthPolicy, limits: Limits, response_len: int
) -> list[list[int]]:
    """Generated prompts of many kinds, up to their first answer."""
    from sglang_speed.training.prompts import generate_prompts  # Faker is in an extra

    found = (_prompt_ids(messages, chat_format) for messages in generate_prompts(MOST_TRIES * limits.num, limits.seed))
    usable = (ids for ids in found if len(ids) + response_len <= limits.max_tokens and has_gap(len(ids), policy))
    prompts = list(islice(usable, limits.num))
    if len(prompts) < FEWEST:
        raise ConfigError(
            f"{len(prompts)} of {FEWEST} built-in prompts that an error needs have at most "
            f"{limits.max_tokens - response_len} tokens and more than the anchors and the tail: raise --max-tokens or "
            "lower --tail-tokens"
        )
    return prompts


def _prompt_ids(messages: Sequence[Message], chat_format: ChatFormat) -> list[int]:
    """The prompt of the first assistant turn that has no answer yet."""
    unanswered = next(index for index, message in enumerate(messages) if message.get("content") is None)
    return chat_format.prompt_ids(Chat(list(messages[:unanswered])))


def answered(
    model: SpeedLlamaForCausalLM,
    prompts: Sequence[Sequence[int]],
    stop_ids: Sequence[int],
    response_len: int,
    seed: int,
    advance: Callable[[int], Any] = lambda count: None,
) -> list[Request]:
    """What the model says at full depth to each prompt, at temperature 1: drawn from its own distribution.

    advance: told how many requests are finished.
    """
    torch.manual_seed(seed)
    speaker = full_depth(model)
    requests = []
    for batch in batches_of_like_length(prompts):
        requests += [
            Request((*prompt, *said), len(prompt)) for prompt, said in _say(speaker, batch, stop_ids, response_len)
        ]
        advance(len(batch))
    return requests


def full_depth(model: SpeedLlamaForCausalLM) -> LlamaForCausalLM:
    """transformers' own Llama with the same weights, because the reference does not generate in batches."""
    with torch.device("meta"):
        plain = LlamaForCausalLM(model.config)
    plain.model, plain.lm_head = model.model, model.lm_head
    return plain.eval()


def batches_of_like_length(prompts: Sequence[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
    """Little padding in each batch."""
    by_length = sorted(prompts, key=len)
    for start in range(0, len(by_length), BATCH_SIZE):
        yield by_length[start : start + BATCH_SIZE]


def _say(
    speaker: LlamaForCausalLM, prompts: Sequence[Sequence[int]], stop_ids: Sequence[int], response_len: int
) -> Iterator[tuple[Sequence[int], list[int]]]:
    """Each prompt with its response, which ends with a stop token or after `response_len` tokens."""
    longest = max(map(len, prompts))
    padded = [[stop_ids[0]] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    visible = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    sampling = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=response_len,
        eos_token_id=list(stop_ids),
        pad_token_id=stop_ids[0],
    )
    ids = speaker.generate(
        torch.tensor(padded, device=speaker.device),
        attention_mask=torch.tensor(visible, device=speaker.device),
        generation_config=sampling,
    )
    for prompt, said in zip(prompts, ids[:, longest:].tolist(), strict=True):
        ends = [place + 1 for place, token in enumerate(said) if token in stop_ids]
        yield prompt, said[: min(ends, default=len(said))]
