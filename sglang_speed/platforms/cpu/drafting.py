"""A draft model's steps on a CPU: the platform's attention once for each of them."""

from __future__ import annotations

import copy
from typing import Any

from sglang_speed.errors import ConfigError


class CpuDraftBackend:
    """What SGLang's draft worker attends through: `attn_backends[i]` in the step that reads the i-th draft.

    All steps are planned before the first: each draft has its place in the table by then.
    """

    def __init__(self, draft_runner: Any, num_steps: int) -> None:
        from sglang_speed.platforms.cpu.attention import CpuAttnBackend  # imports SGLang's, which imports platforms

        self.attn_backends = [CpuAttnBackend(draft_runner) for _ in range(num_steps - 1)]

    def init_forward_metadata(self, forward_batch: Any) -> None:
        for step, backend in enumerate(self.attn_backends):
            batch = copy.copy(forward_batch)
            batch.seq_lens = forward_batch.seq_lens + step + 1
            backend.init_forward_metadata(batch)


def steps_backend(factory: Any) -> CpuDraftBackend | None:
    """In place of DraftBackendFactory.create_decode_backend. None where a draft needs no step of its own."""
    if factory.topk > 1:
        raise ConfigError(
            f"--speculative-eagle-topk {factory.topk} needs an accelerator, and none was found: a CPU drafts chains; "
            "give --speculative-eagle-topk 1"
        )
    if factory.speculative_num_steps <= 1:
        return None
    return CpuDraftBackend(factory.draft_model_runner, factory.speculative_num_steps)


def own_backend(factory: Any) -> None:
    """In place of DraftBackendFactory.create_draft_extend_backend: the draft model's own one serves for that too."""
