"""What the reference says, and the comparison with what a scheduler answered.

Owns prompts, and the two tolerances. Answers of the reference are remembered: many settings are asked the same
questions.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM

from sglang_speed.host.adapter import HOST
from sglang_speed.reference.generation import GreedyStep, greedy_steps, score, steps_along
from sglang_speed.served import served
from tests.catalogue import MODELS, Bands
from tests.scheduler_harness import Answer, SchedulerHarness, When
from tests.tiny_models import BOS_ID, FIRST_BYTE_ID, make_tiny_model

LOGPROB_ATOL = 1e-4
"""float32 through eight layers; the largest difference seen between two orders of summation is 2e-5."""
OF_THE_OUTPUT = -1
"""`logprob_start_len` that scores no prompt token, so that it changes nobody's depth."""
REAL_MARGIN = 1e-4
"""A greedy token that differs where the reference's best two logits are closer than this is a rounding difference."""


@dataclass(frozen=True)
class Ask:
    """One request.

    scored_from: logprob_start_len of a request for log-probabilities.
    when: see `SchedulerHarness.submit`. fields: more of its arguments.
    """

    prompt: Sequence[int]
    max_new_tokens: int = 8
    scored_from: int | None = None
    when: When = 0
    fields: Mapping[str, Any] = field(default_factory=dict)


class Expected:
    """A checkpoint and the reference's answers for it."""

    def __init__(self, directory: Path, bands: Bands, seed: int = 0, *, model: str = "llama", **shape: int) -> None:
        row = MODELS[model]
        self.bands = bands
        self.path = make_tiny_model(directory, speed=bands.speed, seed=seed, **{**row, **shape})
        self.model = AutoModelForCausalLM.from_pretrained(self.path).eval()
        self._steps: dict[Any, list[GreedyStep]] = {}
        self._scores: dict[Any, list[float]] = {}

    def steps(self, prompt: Sequence[int], max_new_tokens: int, scored_from: int | None = None) -> list[GreedyStep]:
        scored_from = None if scored_from == OF_THE_OUTPUT else scored_from
        deep = self.model.deep_tokens(prompt, scored_from)
        known = self._steps.get((tuple(prompt), deep), [])
        if len(known) < max_new_tokens:
            known = list(greedy_steps(self.model, prompt, max_new_tokens, scored_from=scored_from))
            self._steps[tuple(prompt), deep] = known
        return known[:max_new_tokens]

    def steps_along(self, ask: Ask, output_ids: Sequence[int]) -> list[GreedyStep]:
        """The same along an answer, up to its first wrong token; many times faster."""
        scored_from = None if ask.scored_from == OF_THE_OUTPUT else ask.scored_from
        key = tuple(ask.prompt), self.model.deep_tokens(ask.prompt, scored_from)
        known = self._steps.get(key, [])[: len(output_ids)]
        if [step.token_id for step in known] == [*output_ids]:
            return known
        steps = steps_along(self.model, ask.prompt, output_ids, scored_from=scored_from)
        if [step.token_id for step in steps] == [*output_ids]:
            self._steps[key] = steps
        return steps

    def greedy(self, prompt: Sequence[int], max_new_tokens: int, scored_from: int | None = None) -> list[int]:
        return [step.token_id for step in self.steps(prompt, max_new_tokens, scored_from)]

    def said(self, ask: Ask) -> list[float]:
        """Log-probabilities of the generated tokens."""
        steps = self.steps(ask.prompt, ask.max_new_tokens, ask.scored_from)
        return [float(step.logits.log_softmax(-1)[step.token_id]) for step in steps]

    def scores(self, prompt: Sequence[int], scored_from: int) -> list[float]:
        key = (tuple(prompt), scored_from)
        if key not in self._scores:
            self._scores[key] = score(self.model, prompt, scored_from)
        return self._scores[key]

    def answered(self, engine: SchedulerHarness, asks: Iterable[Ask]) -> list[Answer]:
        """Submit all requests, run, and require of each answer that it is the reference's."""
        asks = list(asks)
        names = [submit(engine, ask) for ask in asks]
        answers = engine.run()
        for name, ask in zip(names, asks, strict=True):
            self.require(answers[name], ask)
        return [answers[name] for name in names]

    def require(self, answer: Answer, ask: Ask) -> None:
        """AssertionError unless an answer has the reference's tokens and log-probabilities."""
        assert answer.finish_reason is not None, f"no answer for {ask}"
        assert answer.finish_reason["type"] == "length", f"{answer.finish_reason} for {ask}"
        self.require_tokens(answer.output_ids, ask, ask.max_new_tokens)
        if ask.scored_from is None:
            return
        # with overlap SGLang may drop an output's log-probability at a retraction, of any model
        if not answer.num_retractions:
            require_close(answer.output_logprobs[: ask.max_new_tokens], self.said(ask), ask)
        if 0 <= ask.scored_from < len(ask.prompt):
            assert answer.input_logprobs[0] is None
            require_close(answer.input_logprobs[1:], self.scores(ask.prompt, ask.scored_from), ask)

    def require_tokens(self, output_ids: Sequence[int], ask: Ask, num_tokens: int) -> None:
        """AssertionError unless `output_ids` are the first `num_tokens` that the reference generates."""
        assert len(output_ids) == num_tokens, f"{len(output_ids)} tokens instead of {num_tokens} for {ask}"
        steps = self.steps_along(ask, output_ids)
        for index, (step, found) in enumerate(zip(steps, output_ids, strict=True)):
            if found == step.token_id:
                continue
            kind = "mismatch" if step.margin > REAL_MARGIN else "rounding difference"
            raise AssertionError(
                f"{kind} at output {index} of {num_tokens}: {found} instead of {step.token_id}, margin "
                f"{step.margin:.2e}, prompt of {len(ask.prompt)}, {self.bands}, {ask.scored_from=}"
            )


def submit(engine: SchedulerHarness, ask: Ask) -> str:
    return engine.submit(ask.prompt, ask.max_new_tokens, when=ask.when, logprob_start_len=ask.scored_from, **ask.fields)


def forget_anchors() -> None:
    """All that nobody reads; the prefixes that begin with them stay."""
    model = served()
    for band in () if model is None else model.deep_bands:
        band.reclaim(band.capacity)
        assert band.anchors.num_evictable == 0


def is_in_chunks(name: str, num_tokens: int) -> Callable[[Any], bool]:
    """A moment for `When`: a request is in mid-prefill with at least so many tokens done."""

    def is_due(scheduler: Any) -> bool:
        req = scheduler.chunked_req
        return req is not None and req.rid == name and HOST.prefix_len(req) >= num_tokens

    return is_due


def require_close(found: Sequence[float | None], expected: Sequence[float], what: Any) -> None:
    assert len(found) == len(expected), f"{len(found)} log-probabilities instead of {len(expected)} for {what}"
    worst = max((abs(one - other) for one, other in zip(found, expected, strict=True)), default=0.0)
    assert worst < LOGPROB_ATOL, f"log-probabilities differ by {worst:.2e} for {what}"


def tokens(num_tokens: int, seed: int = 0) -> list[int]:
    """Random printable bytes as token ids."""
    generator = random.Random(f"{num_tokens} {seed}")
    return [generator.randrange(FIRST_BYTE_ID + 32, FIRST_BYTE_ID + 127) for _ in range(num_tokens)]


def prompt(num_tokens: int, seed: int = 0, first: int = BOS_ID) -> list[int]:
    """A prompt of random text after its first token."""
    return [first, *tokens(num_tokens - 1, seed)]
