"""Compares answers with the reference.

The reference reads prompt and answer in one forward pass: an answer is greedy exactly when each of its tokens has the
best logit after all that stands before it. That costs a few milliseconds, so no prompt has to be asked twice.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xgrammar
from torch import Tensor
from transformers import AutoTokenizer

from sglang_speed.reference.modeling import SpeedLlamaForCausalLM
from tests.server.storm.questions import Outcome, Question
from tests.tiny_adapters import TinyAdapter
from tests.tiny_models import EOS_ID, VOCAB_SIZE

REAL_MARGIN = 1e-4
"""Where the reference's best two logits are closer than this, another token is a rounding difference."""
LOGPROB_ATOL = 1e-3
"""float32 through eight layers, in other orders of summation; what is seen is below 1e-4."""


@dataclass(frozen=True)
class Verdict:
    """num_tokens: compared ones. num_rounded: rounding differences. mismatch: what is wrong, empty if nothing is."""

    num_tokens: int = 0
    num_rounded: int = 0
    mismatch: str = ""


class Examiner:
    """The reference of one checkpoint, and one with each adapter merged into its weights."""

    def __init__(self, checkpoint: Path, adapters: Sequence[TinyAdapter] = ()) -> None:
        self.model = SpeedLlamaForCausalLM.from_pretrained(checkpoint).eval()
        self.adapted = {adapter.name: adapter.merged(self.model) for adapter in adapters}
        tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint)
        info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=VOCAB_SIZE)
        self.tokenizer, self.compiler = tokenizer, xgrammar.GrammarCompiler(info)

    def examine(self, outcome: Outcome) -> Verdict:
        """A finished answer must be whole and exact; of a stopped one, what there is must be exact."""
        question, output = outcome.question, outcome.output_ids
        if outcome.end == "aborted":
            # a request for no token has none sampled; SGLang tells it a placeholder where it is aborted in its prefill
            output = output[: question.max_new_tokens]
        if outcome.end == "finished":
            mismatch = self.form_error(question, output)
            if mismatch:
                return Verdict(mismatch=f"{mismatch}: {describe(outcome)}")
        if question.temperature:
            return Verdict()
        logits = self.logits(question, output)
        verdict = compare(self.allowed(question, logits[len(logits) - len(output) - 1 :], output), output)
        mismatch = verdict.mismatch or score_error(outcome, logits)
        return Verdict(len(output), verdict.num_rounded, mismatch and f"{mismatch}: {describe(outcome)}")

    def form_error(self, question: Question, output: Sequence[int]) -> str:
        """What is wrong with the length, or with the form that was asked for."""
        if question.pattern is None:
            expected = question.max_new_tokens
            return "" if len(output) == expected else f"{len(output)} tokens instead of {expected}"
        text = self.tokenizer.decode(output, skip_special_tokens=True)
        return "" if re.fullmatch(question.pattern, text) else f"{text!r} does not match {question.pattern}"

    @torch.no_grad()
    def logits(self, question: Question, output: Sequence[int]) -> Tensor:
        """Logits after each decode-phase token, [num_tokens, vocab]; the last prompt token and the output are such."""
        model = self.model if question.adapter is None else self.adapted[question.adapter]
        deep = model.deep_tokens(question.prompt, question.scored_from)
        first = len(question.prompt) - 1 if question.scored_from is None else question.scored_from
        first_row = deep[-1].index_of(first)
        logits: Tensor = model(torch.tensor([[*question.prompt, *output]]), deep).logits[0, first_row:]
        return logits

    def allowed(self, question: Question, logits: Tensor, output: Sequence[int]) -> Tensor:
        """Logits of the tokens that may follow; the others, which a pattern forbids, have no chance."""
        if question.pattern is None:
            return logits
        matcher = xgrammar.GrammarMatcher(self.compiler.compile_regex(question.pattern))
        bitmask = xgrammar.allocate_token_bitmask(1, VOCAB_SIZE)
        logits = logits.clone()
        for row, token in zip(logits, output, strict=False):
            matcher.fill_next_token_bitmask(bitmask)
            xgrammar.apply_token_bitmask_inplace(row[None], bitmask)
            if token == EOS_ID or not matcher.accept_token(token):
                break
        return logits


def compare(logits: Tensor, output: Sequence[int]) -> Verdict:
    """Whether each token of an answer has the best logit. logits: [len(output) + 1, vocab]."""
    num_rounded = 0
    for index, (row, found) in enumerate(zip(logits, output, strict=False)):
        best = row.topk(2)
        if found == best.indices[0]:
            continue
        margin = float(best.values[0] - best.values[1])
        if margin > REAL_MARGIN or found != best.indices[1]:
            wrong = f"output {index} of {len(output)} is {found}, not {int(best.indices[0])}, margin {margin:.2e}"
            return Verdict(mismatch=wrong)
        num_rounded += 1
    return Verdict(num_rounded=num_rounded)


def score_error(outcome: Outcome, logits: Tensor) -> str:
    """What is wrong with the log-probabilities of the prompt. logits: [num_tokens, vocab] from `scored_from` on."""
    start = outcome.question.scored_from
    if start is None or outcome.end != "finished":
        return ""
    scored = torch.tensor(outcome.question.prompt[start + 1 :], dtype=torch.long)
    expected = logits[: len(scored)].log_softmax(-1).gather(1, scored[:, None])[:, 0].tolist()
    found = [entry[0] for entry in outcome.meta["input_token_logprobs"]][1:]
    if len(found) != len(expected):
        return f"{len(found)} scores instead of {len(expected)}"
    worst = max((abs(one - other) for one, other in zip(found, expected, strict=True)), default=0.0)
    return "" if worst < LOGPROB_ATOL else f"scores differ by {worst:.2e}"


def describe(outcome: Outcome) -> str:
    """A request in a line, enough to find it again."""
    question, meta = outcome.question, outcome.meta
    seen = {name: meta.get(name) for name in ("cached_tokens", "num_retractions", "id")}
    return (
        f"{outcome.kind}, {outcome.end}, prompt of {len(question.prompt)} {list(question.prompt[:8])}..., "
        f"{question.max_new_tokens=} {question.scored_from=} {question.fields=} {seen}"
    )
