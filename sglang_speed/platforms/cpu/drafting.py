"""A draft model on a CPU: the platform's attention once for each step, and a draft model that reads whole prompts.

SGLang feeds every draft model what a head on hidden states wants: slot `p` has token `p + 1`, and the first token is
left out. A model of its own (STANDALONE) then drafts behind another text than the one that is answered, and what a
prefix hit brings depends on who came first. Here slot `p` has token `p`; what was read of an answer ends one place
later than SGLang's, at the last token that is known.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from sglang.srt.model_executor.forward_batch_info import CaptureHiddenMode, ForwardBatch
from torch import Tensor

from sglang_speed.errors import ConfigError

UNREAD = -1
"""In place of a first draft where the draft model has not read the last known token yet."""


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


def read_prompts(
    original: Callable[..., Any],
    worker: Any,
    batch: Any,
    target_hidden_states: Any,
    next_token_ids: Tensor,
    mm_input_embeds: Tensor | None = None,
    kv_loc_plan: Any = None,
) -> Any:
    """Around EagleDraftWorker._draft_extend_for_prefill: the draft model reads what the model has read.

    The token behind it has no slot yet; `prepare_drafts` reads it.
    """
    if not worker.speculative_algorithm.is_standalone():
        return original(worker, batch, target_hidden_states, next_token_ids, mm_input_embeds, kv_loc_plan)
    from sglang.srt.speculative.eagle_info import EagleDraftExtendInput, EagleDraftInput  # its kernels are hooked

    sizes = {"num_tokens_per_req": 1, "num_tokens_for_logprob_per_req": 1}
    batch.spec_info = EagleDraftExtendInput(hidden_states=None, **sizes)
    forward_batch = ForwardBatch.init_new(
        batch,
        worker.draft_runner,
        capture_hidden_mode=CaptureHiddenMode.NULL,
        return_hidden_states_before_norm=False,
        kv_loc_plan=kv_loc_plan,
    )
    forward_batch.return_logprob = False
    if mm_input_embeds is not None:
        forward_batch.mm_input_embeds = mm_input_embeds
    worker.draft_runner.forward(forward_batch)
    drafts = torch.full((len(next_token_ids), 1), UNREAD)
    return EagleDraftInput(topk_p=torch.ones(drafts.shape), topk_index=drafts, bonus_tokens=next_token_ids, **sizes)


def read_accepted(original: Callable[..., Any], worker: Any, batch: Any, batch_result: Any, **more: Any) -> None:
    """Around EagleDraftWorker._draft_extend_for_decode: what was accepted is read at its own places."""
    if not worker.speculative_algorithm.is_standalone():
        return original(worker, batch, batch_result, **more)
    ahead = _one_ahead(batch)
    num_drafts = worker.speculative_num_draft_tokens
    places = ahead.seq_lens[:, None] + torch.arange(num_drafts)
    table = worker.req_to_token_pool.req_to_token
    ahead.out_cache_loc = table[batch.req_pool_indices[:, None], places].long().flatten()
    return original(worker, ahead, batch_result, **more)


def prepare_drafts(
    original: Callable[..., Any],
    draft_input: Any,
    req_to_token_pool: Any,
    batch: Any,
    cuda_graph_runner: Any,
    draft_model_runner: Any,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Around prepare_for_draft: drafts begin behind the last known token, which is read where it was not yet.

    No plan of slots is made for the whole step, since those of the model begin one place before.
    """
    runners = cuda_graph_runner, draft_model_runner
    if not draft_model_runner.spec_algorithm.is_standalone():
        return original(draft_input, req_to_token_pool, batch, *runners, *args, **kwargs)
    kwargs["target_translator"] = None
    if (draft_input.topk_index == UNREAD).any():
        forward_batch, *_ = original(draft_input, req_to_token_pool, batch, *runners, *args, **kwargs)
        _read_last(draft_input, forward_batch, draft_model_runner)
    return original(draft_input, req_to_token_pool, _one_ahead(batch), *runners, *args, **kwargs)


def _read_last(draft_input: Any, forward_batch: Any, runner: Any) -> None:
    """A step of the whole batch; who had read the token reads the same again."""
    slots = forward_batch.out_cache_loc.view(forward_batch.batch_size, -1)
    forward_batch.input_ids = draft_input.bonus_tokens.long()
    forward_batch.out_cache_loc = slots[:, 0].contiguous()
    forward_batch.seq_lens = forward_batch.seq_lens + 1
    logits = runner.forward(forward_batch).logits_output.next_token_logits
    draft_input.topk_index = logits.argmax(-1, keepdim=True)


def _one_ahead(batch: Any) -> Any:
    """The batch with one more token of each request."""
    ahead = copy.copy(batch)
    ahead.seq_lens, ahead.seq_lens_cpu = batch.seq_lens + 1, batch.seq_lens_cpu + 1
    ahead.seq_lens_sum = None if batch.seq_lens_sum is None else batch.seq_lens_sum + len(batch.seq_lens)
    return ahead
