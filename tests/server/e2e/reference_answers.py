"""What the reference says of the checkpoint that is served.

Owns the comparison of tokens and the tolerance of log-probabilities. Knows nothing of servers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import xgrammar
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.cache_utils import DynamicCache

import sglang_speed.reference.modeling  # noqa: F401 (registers the models)
from sglang_speed.reference.generation import GreedyStep, greedy_steps, steps_along
from tests.tiny_models import EOS_ID, VOCAB_SIZE

LOGPROB_ATOL = 1e-3
"""float32 through eight layers, in other orders of summation; what is seen is below 1e-4."""

Adjust = Callable[[Tensor, list[int]], Tensor]
"""Logits [vocab] and the tokens generated so far to the logits that the next token is taken from."""


class Reference:
    """The reference model of a checkpoint, and its tokenizer."""

    def __init__(self, directory: Path) -> None:
        self.path = directory
        self.model = AutoModelForCausalLM.from_pretrained(directory).eval()
        self.tokenizer: Any = AutoTokenizer.from_pretrained(directory)

    def steps(self, prompt: Sequence[int], num_tokens: int, scored_from: int | None = None) -> list[GreedyStep]:
        return list(greedy_steps(self.model, prompt, num_tokens, scored_from=scored_from))

    def greedy(self, prompt: Sequence[int], num_tokens: int, scored_from: int | None = None) -> list[int]:
        return [step.token_id for step in self.steps(prompt, num_tokens, scored_from)]

    def text(self, prompt: Sequence[int], num_tokens: int) -> str:
        """Greedy output as text."""
        text: str = self.tokenizer.decode(self.greedy(prompt, num_tokens))
        return text

    @torch.no_grad()
    def adjusted(self, prompt: Sequence[int], num_tokens: int, adjust: Adjust) -> list[int]:
        """Greedy tokens from adjusted logits, `<eos>` included where it ends them."""
        deep = self.model.policy.deep_tokens(len(prompt))
        cache, output, new_ids = DynamicCache(), [], list(prompt)
        while len(output) < num_tokens and EOS_ID not in output:
            logits = self.model(torch.tensor([new_ids]), deep, cache).logits[0, -1]
            new_ids = [int(adjust(logits, output).argmax())]
            output += new_ids
        return output

    @torch.no_grad()
    def logprobs(self, input_ids: Sequence[int], scored_from: int) -> Tensor:
        """Log-probabilities after each position from `scored_from` on: [num_tokens - scored_from, vocab]."""
        deep = self.model.policy.deep_tokens(len(input_ids), scored_from)
        logits = self.model(torch.tensor([input_ids]), deep).logits[0, deep.index_of(scored_from) :]
        logprobs: Tensor = logits.log_softmax(-1)
        return logprobs

    def require(self, prompt: Sequence[int], found: Sequence[int], scored_from: int | None = None) -> None:
        """AssertionError unless `found` is what the reference generates, with the margin where they part."""
        steps = steps_along(self.model, prompt, found, scored_from=scored_from)
        for index, (step, token) in enumerate(zip(steps, found, strict=True)):
            assert token == step.token_id, (
                f"output {index} of {len(found)} is {token}, not {step.token_id}, whose margin is {step.margin:.2e}"
            )


def within(grammar: xgrammar.CompiledGrammar) -> Adjust:
    """Tokens that a grammar forbids have no chance."""
    matcher, bitmask = xgrammar.GrammarMatcher(grammar), xgrammar.allocate_token_bitmask(1, VOCAB_SIZE)

    def adjust(logits: Tensor, output: list[int]) -> Tensor:
        assert not output or matcher.accept_token(output[-1])
        matcher.fill_next_token_bitmask(bitmask)
        xgrammar.apply_token_bitmask_inplace(logits[None], bitmask)
        return logits

    return adjust
