"""The reference with an fp8 KV cache: keys and values are rounded where the backend of a server reads them.

Owns the rounding and the comparison. Rounding is a step function: where two orders of summation leave a key on either
side of a step, one element of one key differs by an eighth (e4m3) or a quarter (e5m2) of itself. Such a flip moves the
log-probabilities of one request by a few thousandths, and happens to one or two requests in a hundred. So an answer
may be off by `FLIP`, but most of what is compared must be as exact as it is without fp8. A reference that leaves one
band unrounded has hardly an exact log-probability (`test_a_band_that_is_not_rounded_is_noticed`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache
from transformers.masking_utils import AttentionMaskInterface, eager_mask
from transformers.modeling_utils import AttentionInterface

from sglang_speed.method import DeepTokens
from sglang_speed.reference.generation import GreedyStep
from tests.catalogue import Bands
from tests.inprocess.parity.expected import LOGPROB_ATOL, Ask, Expected, prompt, submit, tokens
from tests.scheduler_harness import Answer, SchedulerHarness

DTYPES = {"fp8_e4m3": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}
FLIP = 0.05
"""Logits and log-probabilities; ten times the worst that a flip has done on these models."""
MIN_EXACT = 0.75
"""Share of the log-probabilities that are as close as without fp8; 0.97 and more are usual."""


def workload_of_one_chunk(ending: int) -> list[Ask]:
    """Prompts that fit in one chunk together, so that hits alone cut them. ending: the seed of their last five tokens.

    Where only the endings differ, a hit is everything before them.
    """
    asks = [Ask([*prompt(length), *tokens(5, seed=ending)], 7) for length in (1, 12, 55)]
    return [
        *asks,
        *(Ask([*prompt(24), *tokens(5, seed=ending + seed)], 6, scored_from=22 + 2 * seed) for seed in (1, 2)),
    ]


HITS_OF_ONE_CHUNK = [1, 12, 55, 24, 24]


@dataclass(frozen=True)
class Rounding:
    """What a backend rounds to `dtype`, besides all keys and values that it reads from the pool.

    own_rows: an extend reads its own rows from the pool; otherwise it has them as they were computed. A decode step
        reads its row from the pool in every backend.
    queries: queries are rounded where they meet keys from the pool. weights: so are softmax's numerators.
    layers: those that are rounded; None for all. scales: what keys and values of a layer are divided by before.
    """

    dtype: torch.dtype
    own_rows: bool = True
    queries: bool = False
    weights: bool = False
    layers: range | None = None
    scales: Callable[[int], tuple[float, float]] | None = None


class RoundedAttention:
    """An attention function of transformers. decoding: the forward is a decode step."""

    def __init__(self, rounding: Rounding) -> None:
        self.rounding = rounding
        self.decoding = False

    def __call__(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float, **_: Any
    ) -> tuple[Tensor, None]:
        """query: [batch, num_heads, num_rows, head_dim]. Returns [batch, num_rows, num_heads, head_dim]."""
        key, value = (each.repeat_interleave(module.num_key_value_groups, dim=1) for each in (key, value))
        pool, own = self._split(module.layer_idx, key.shape[2], query.shape[2])
        scales = (1.0, 1.0) if self.rounding.scales is None else self.rounding.scales(module.layer_idx)
        read = [self._round(each[:, :, pool] / by) * by for each, by in zip((key, value), scales, strict=True)]
        in_pool = self._round(query, self.rounding.queries) @ read[0].mT * scaling + mask[..., pool]
        in_own = query @ key[:, :, own].mT * scaling + mask[..., own]
        top = torch.cat([in_pool, in_own], -1).amax(-1, keepdim=True)
        out, total = (in_own - top).exp() @ value[:, :, own], (in_own - top).exp().sum(-1, keepdim=True)
        if in_pool.shape[-1]:
            first = in_pool.amax(-1, keepdim=True)  # numerators are rounded before they are brought to a common scale
            weights = (in_pool - first).exp()
            out = out + self._round(weights, self.rounding.weights) @ read[1] * (first - top).exp()
            total = total + weights.sum(-1, keepdim=True) * (first - top).exp()
        return (out / total).transpose(1, 2).contiguous(), None

    def _split(self, layer: int, num_keys: int, num_rows: int) -> tuple[slice, slice]:
        """Which keys come from the pool, and which as they were computed."""
        if self.rounding.layers is not None and layer not in self.rounding.layers:
            return slice(0, 0), slice(0, num_keys)
        end = num_keys if self.rounding.own_rows or self.decoding else num_keys - num_rows
        return slice(0, end), slice(end, num_keys)

    def _round(self, values: Tensor, is_rounded: bool = True) -> Tensor:
        return values.to(self.rounding.dtype).to(values.dtype) if is_rounded else values


class RoundedExpected(Expected):
    """A checkpoint and the rounded reference's answers for it.

    chunk: tokens of a chunk, where prompts were prefilled alone and in chunks. It only matters without `own_rows`.
    """

    tolerance, min_exact = FLIP, MIN_EXACT

    def __init__(
        self, directory: Path, bands: Bands, rounding: Rounding, chunk: int | None = None, **shape: int
    ) -> None:
        super().__init__(directory, bands, **shape)
        self.attention, self.chunk = RoundedAttention(rounding), chunk
        name = f"rounded {id(self)}"
        AttentionInterface.register(name, self.attention)
        AttentionMaskInterface.register(name, eager_mask)
        self.model.config._attn_implementation = name
        self.num_seen = self.num_exact = 0
        self.worst = 0.0

    def round_only(self, layers: range) -> None:
        """Become a wrong reference, for a test of the comparison."""
        self.attention.rounding = replace(self.attention.rounding, layers=layers)

    def answered(self, engine: SchedulerHarness, asks: Iterable[Ask]) -> list[Answer]:
        """Submit all requests, run, and require of each answer that it is the reference's up to flips."""
        asks = [replace(ask, scored_from=-1) if ask.scored_from is None else ask for ask in asks]
        names = [submit(engine, ask) for ask in asks]
        answers = [engine.run()[name] for name in names]
        self.require_all(answers, asks)
        return answers

    def require_all(self, answers: Sequence[Answer], asks: Sequence[Ask]) -> None:
        self.num_seen = self.num_exact = 0
        for answer, ask in zip(answers, asks, strict=True):
            self.require(answer, ask)
        assert self.num_seen > len(asks), "there is little to compare"
        exact = self.num_exact / self.num_seen
        assert exact >= self.min_exact, f"only {exact:.0%} of {self.num_seen} log-probabilities are exact"

    @torch.no_grad()
    def require(self, answer: Answer, ask: Ask) -> None:
        """AssertionError where a token or a log-probability is off by more than a flip."""
        scored_from = None if ask.scored_from in (None, -1) else ask.scored_from
        deep = self.model.policy.deep_tokens(len(ask.prompt), scored_from)
        cache, logits = self._prefill(ask.prompt, deep, self._cuts(answer.cached_tokens, len(ask.prompt)))
        if scored_from is not None and scored_from < len(ask.prompt):
            said = logits[deep.index_of(scored_from) : -1].log_softmax(-1)
            ids = torch.tensor(ask.prompt)[scored_from + 1 :, None]
            self._compare(answer.input_logprobs[1:], said.gather(1, ids)[:, 0].tolist(), ask)
        assert len(answer.output_ids) == ask.max_new_tokens, f"{answer} for {ask}"
        said, row = [], logits[-1]
        for found in answer.output_ids:
            step = GreedyStep(int(row.argmax()), row)
            if found != step.token_id:
                assert step.margin < self.tolerance, (
                    f"{found} instead of {step.token_id}, margin {step.margin:.2e}, for {ask}"
                )
                break  # what follows answers another text
            said.append(float(row.log_softmax(-1)[found]))
            row = self._decode(found, deep, cache)
        # with overlap SGLang may drop an output's log-probability at a retraction, of any model
        if not answer.num_retractions:
            self._compare(answer.output_logprobs[: len(said)], said, ask)

    def _cuts(self, cached: int, prompt_len: int) -> list[int]:
        """Where one forward ended and the next began: this request's, and that which left its prefix in the tree."""
        chunk = self.chunk or prompt_len
        return sorted({0, *range(chunk, cached, chunk), *range(cached, prompt_len, chunk)})

    def _prefill(self, prompt: Sequence[int], deep: DeepTokens, cuts: Sequence[int]) -> tuple[DynamicCache, Tensor]:
        """The KV of a prompt, and the logits of its deep tokens, [num_deep, vocab]."""
        cache, ids = DynamicCache(), torch.tensor([prompt])
        self.attention.decoding = False
        pieces = pairwise([*cuts, len(prompt)])
        return cache, torch.cat([self.model(ids[:, first:end], deep, cache).logits[0] for first, end in pieces])

    def _decode(self, token_id: int, deep: DeepTokens, cache: DynamicCache) -> Tensor:
        self.attention.decoding = True
        logits: Tensor = self.model(torch.tensor([[token_id]]), deep, cache).logits[0, -1]
        return logits

    def _compare(self, found: Sequence[float | None], expected: Sequence[float], ask: Ask) -> None:
        off = [abs(one - other) for one, other in zip(found, expected, strict=True)]
        self.worst = max(self.worst, *off, 0.0)
        assert max(off, default=0.0) < self.tolerance, f"log-probabilities differ by {max(off):.2e} for {ask}"
        self.num_seen += len(off)
        self.num_exact += sum(each < LOGPROB_ATOL for each in off)
