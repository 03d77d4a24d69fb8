"""Answers that are read off the prompt: embeddings, hidden states, several items scored in one prompt. Refused.

Scores of a prompt (`logprob_start_len`) are no flag, and are served: the span that is scored is deep.
"""

from __future__ import annotations

from sglang_speed.features.base import Feature, Refusal, on
from sglang_speed.host.versions import NEWEST

FEATURE = Feature(
    name="embeddings, hidden states, multi-item scoring",
    refusals=(
        Refusal("--enable-mis", on("enable_mis"), "items in one prompt would need their own deep tokens"),
        Refusal("--is-embedding", on("is_embedding"), "prompt tokens have no last hidden state"),
        Refusal("--enable-return-hidden-states", on("enable_return_hidden_states"), "prompt tokens have none"),
        Refusal(
            "--return-hidden-states-mode", on("return_hidden_states_mode"), "prompt tokens have no last hidden state"
        ),
        # these also leave out the check of speculative decoding, which they set back
        Refusal(
            "--enable-return-aux-hidden-states",
            on("enable_return_aux_hidden_states"),
            "prompt tokens have none of the upper layers",
            versions=(NEWEST,),
        ),
        Refusal(
            "--aux-hidden-state-capture",
            on("aux_hidden_state_capture"),
            "prompt tokens have none of the upper layers",
            versions=(NEWEST,),
        ),
        Refusal("--prefill-only-disable-kv-cache", on("prefill_only_disable_kv_cache"), "it replaces the pools"),
    ),
)
