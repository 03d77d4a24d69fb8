"""Answers that are read off the prompt: embeddings, hidden states, several items scored in one prompt.

The last token of a prompt is in its tail, and so is all that is generated: what is read there has passed all layers.
Served is what reads nothing else; a request for states of a whole prompt is refused where the prompt has not
(`serving/admission.py`). Scores of a prompt (`logprob_start_len`) are no flag, and are served: the span that is scored
is deep.
"""

from __future__ import annotations

from typing import Any

from sglang_speed.features.base import Feature, Refusal, not_beside, on
from sglang_speed.host.versions import NEWEST, OLDEST

POOLED_AT_LAST_TOKEN = ("llama", "mistral", "qwen2", "qwen3", "glm4", "granite", "exaone4", "phi3")
"""Model types whose embedding SGLang takes from the last token."""
_OTHER_ROWS = "SGLang 0.5.23 reads states of accepted drafts in the rows of others, at full depth too"
_PROMPTS_HAVE_NONE = "prompt tokens have no last hidden state; SGLang 0.5.23 can ask for that of the last one alone"


def _is_pooled_elsewhere(args: Any) -> bool:
    model_type = args.get_model_config().hf_config.model_type
    return bool(args.is_embedding) and model_type not in POOLED_AT_LAST_TOKEN


def _message_of_pooling(args: Any) -> str:
    return (
        f"--is-embedding is not supported for {args.get_model_config().hf_config.model_type} with a SPEED model (its "
        "embedding is not taken from the last token, the only one of a prompt that is sure to pass all layers); serve "
        f"the full-depth checkpoint, or one of {', '.join(POOLED_AT_LAST_TOKEN)}"
    )


def _reads_states_of_drafts(args: Any) -> bool:
    asked = args.return_hidden_states_mode or args.enable_return_hidden_states
    return bool(args.speculative_algorithm and asked)


FEATURE = Feature(
    name="embeddings, hidden states, multi-item scoring",
    served=("--is-embedding", "--return-hidden-states-mode", "--enable-return-hidden-states"),
    proof=("tests/inprocess/parity/test_last_states.py",),
    refusals=(
        Refusal("--enable-mis", on("enable_mis"), "items in one prompt would need their own deep tokens"),
        Refusal("--is-embedding", on("is_embedding"), "not proven with SGLang 0.5.17", versions=(OLDEST,)),
        Refusal(
            "--is-embedding of a model that pools other tokens",
            _is_pooled_elsewhere,
            "only the last token of a prompt is sure to pass all layers",
            message=_message_of_pooling,
            at_full_depth=False,
            versions=(NEWEST,),
        ),
        Refusal(
            "--enable-return-hidden-states",
            on("enable_return_hidden_states"),
            _PROMPTS_HAVE_NONE,
            versions=(OLDEST,),
        ),
        Refusal("--return-hidden-states-mode", on("return_hidden_states_mode"), _PROMPTS_HAVE_NONE, versions=(OLDEST,)),
        not_beside(
            "--return-hidden-states-mode",
            "--speculative-algorithm",
            _reads_states_of_drafts,
            _OTHER_ROWS,
            versions=(NEWEST,),
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
