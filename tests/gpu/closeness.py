"""Is every token that a server chose one that the reference would choose, up to the rounding of a 16-bit server?

The reference is given the weights as the server holds them, rounded to 16 bits, and computes in float32. It is shown
the prompt and all that was answered, and says how far each chosen token is behind its own best. Rounding can turn a
race that is closer than `TIE`; what other bands would say is further apart in most places
(`tests/inprocess/parity/test_closeness.py`).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

import sglang_speed.reference.modeling  # noqa: F401  registers its models
from sglang_speed.reference.generation import steps_along
from tests.catalogue import MODELS
from tests.scheduler_harness import Answer
from tests.tiny_models import make_tiny_model

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
TIE = {"bfloat16": 0.3, "float16": 0.05}
"""Logits, whose standard deviation is near 1.6 in these models. Each of eight layers rounds its additions to the
residual at 2^-9 (2^-12) of it, and its products as often again: a few hundredths (thousandths) of a logit, 0.05 in
bfloat16 on a CPU. The worst of hundreds of tokens is several times that: 0.13 to 0.18, by the CPU's instructions."""
MIN_AGREEING = 0.9
"""Share of tokens that are the reference's best; what is lost are near ties."""
SHAPE = {"num_layers": 8, "hidden_size": 128, "num_heads": 8, "num_kv_heads": 2, "head_dim": 128}
SPEED = {"prefill_layers": 6, "anchor_tokens": 1, "tail_tokens": 3}


@dataclass
class Checked:
    """Tokens that were looked at, those that were the reference's best, the worst gap of a logit seen, and how far
    each log-probability was off."""

    num_tokens: int = 0
    num_best: int = 0
    worst_gap: float = 0.0
    logprob_errors: list[float] = field(default_factory=list, repr=False)

    @property
    def typical_error(self) -> float:
        """Root mean square error of the log-probabilities, in nats."""
        return statistics.fmean(error**2 for error in self.logprob_errors) ** 0.5


class Rounded:
    """A checkpoint, and its reference with weights rounded to a dtype."""

    def __init__(
        self, directory: Path, dtype: str, speed: dict[str, Any] | None = None, model: str = "llama", **shape: int
    ) -> None:
        self.dtype = dtype
        sizes: dict[str, Any] = {**MODELS[model], **SHAPE, **shape}
        if "num_experts" in sizes:  # all of them run: where a router's choice is close, rounding makes another one
            sizes["num_experts_per_tok"] = sizes["num_experts"]
        self.path = make_tiny_model(directory, speed=SPEED | (speed or {}), **sizes)
        self.model = AutoModelForCausalLM.from_pretrained(self.path).eval()
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.copy_(parameter.to(DTYPES[dtype]))

    def logits(self, prompt: Sequence[int], output_ids: Sequence[int], scored_from: int | None = None) -> torch.Tensor:
        """What each output was chosen from, [num_outputs, vocab]."""
        return torch.stack(
            [step.logits for step in steps_along(self.model, prompt, output_ids, scored_from=scored_from)]
        )

    def check(
        self, prompt: Sequence[int], answer: Answer, checked: Checked, scored_from: int | None = None
    ) -> torch.Tensor:
        """AssertionError where a token is further behind than rounding explains; returns their log-probabilities."""
        assert answer.finish_reason is not None, "no answer"
        assert answer.finish_reason["type"] == "length", answer.finish_reason
        logits = self.logits(prompt, answer.output_ids, scored_from)
        chosen = logits.gather(1, torch.tensor(answer.output_ids)[:, None])[:, 0]
        gaps = logits.max(-1).values - chosen
        checked.num_tokens += len(gaps)
        checked.num_best += int((gaps == 0).sum())
        checked.worst_gap = max(checked.worst_gap, float(gaps.max()))
        where = f"output {int(gaps.argmax())} of {len(gaps)} after a prompt of {len(prompt)}, {scored_from=}"
        assert gaps.max() < TIE[self.dtype], f"{float(gaps.max()):.3f} logits behind the reference's best at {where}"
        return logits.log_softmax(-1).gather(1, torch.tensor(answer.output_ids)[:, None])[:, 0]

    def check_logprobs(self, answer: Answer, expected: torch.Tensor, checked: Checked) -> None:
        """AssertionError where one of an answer's log-probabilities is further off than rounding explains."""
        if answer.output_logprobs and not answer.num_retractions:
            errors = (expected - torch.tensor(answer.output_logprobs[: len(expected)])).abs()
            checked.logprob_errors += errors.tolist()
            where = f"output {int(errors.argmax())} of {len(errors)}"
            assert errors.max() < TIE[self.dtype], f"log-probabilities are off by {float(errors.max()):.3f} at {where}"


def require_agreement(checked: Checked) -> None:
    assert checked.num_best >= MIN_AGREEING * checked.num_tokens, f"too few are the reference's best: {checked}"
