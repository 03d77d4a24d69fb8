"""Answers that are read off the prompt: embeddings, hidden states, several items scored in one prompt. Refused.

Scores of a prompt (`logprob_start_len`) are no flag, and are served: the span that is scored is deep.
"""

from __future__ import annotations

from sglang_speed.features.base import Feature, Refusal, on

FEATURE = Feature(
    name="embeddings, hidden states, multi-item scoring",
    refusals=(
        Refusal("--enable-mis", on("enable_mis"), "items in one prompt would need their own deep tokens"),
        Refusal("--is-embedding", on("is_embedding"), "prompt tokens have no last hidden state"),
        Refusal("--enable-return-hidden-states", on("enable_return_hidden_states"), "prompt tokens have none"),
        Refusal(
            "--return-hidden-states-mode", on("return_hidden_states_mode"), "prompt tokens have no last hidden state"
        ),
        Refusal("--prefill-only-disable-kv-cache", on("prefill_only_disable_kv_cache"), "it replaces the pools"),
    ),
)
