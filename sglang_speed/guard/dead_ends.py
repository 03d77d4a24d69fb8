"""Drawing a token must not fail for one request: an exception there ends the scheduler, with all requests."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sglang_speed.served import served


def leave_a_choice(_: Any, info: Any, logits: Tensor, observer: Any = None) -> None:
    """Hook after SamplingBatchInfo.apply_logits_bias, and the one for an observer: where every token is forbidden,
    every token is allowed.

    logits: [batch_size, vocab_size], changed in place. A grammar that led into the dead end then rejects the token,
    and SGLang aborts that request alone.
    """
    forbids = info.grammar_mask is not None or info.acc_additive_penalties is not None
    forbids = forbids or (info.penalizer_orchestrator is not None and info.penalizer_orchestrator.is_required)
    if served() is not None and forbids:
        is_dead_end = (logits == float("-inf")).all(-1, keepdim=True)
        logits.masked_fill_(is_dead_end, 0.0)
