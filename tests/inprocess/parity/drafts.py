"""Schedulers that draft, and how many of their drafts are right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from sglang.srt.arg_groups import speculative_hook

from tests.scheduler_harness import Answer, SchedulerHarness, running_scheduler

NUM_DRAFTS = 5
NGRAM: Mapping[str, Any] = {
    "speculative_algorithm": "NGRAM",
    "speculative_num_draft_tokens": NUM_DRAFTS,
    "speculative_ngram_capacity": 100_000,  # SGLang's ten million take a second to make
}


def standalone(draft_model: Path) -> Mapping[str, Any]:
    return {
        "speculative_algorithm": "STANDALONE",
        "speculative_draft_model_path": str(draft_model),
        "speculative_num_steps": NUM_DRAFTS - 1,
        "speculative_eagle_topk": 1,
        "speculative_num_draft_tokens": NUM_DRAFTS,
    }


@contextmanager
def drafting_scheduler(path: Path, *, overlap: bool = False, **settings: Any) -> Iterator[SchedulerHarness]:
    """A scheduler that drafts. overlap: with the overlap schedule, which SGLang turns off on a CPU where drafts are;
    accelerators have it."""
    kept = mock.patch.object(speculative_hook, "_disable_overlap_schedule_for_cpu", return_value=None)
    with kept if overlap else mock.patch.dict({}), running_scheduler(path, **{**NGRAM, **settings}) as engine:
        assert engine.scheduler.enable_overlap == (overlap and not settings.get("disable_overlap_schedule"))
        yield engine


def require_drafts_of_both_kinds(answers: Sequence[Answer]) -> None:
    """AssertionError unless some drafts were accepted and some rejected; each first token comes from the prefill."""
    num_tokens = sum(max(0, len(answer.output_ids) - 1) for answer in answers)
    num_verified = sum(answer.num_verified for answer in answers)
    assert 1.1 * num_verified < num_tokens < 0.9 * NUM_DRAFTS * num_verified, f"{num_tokens=}, {num_verified=}"
