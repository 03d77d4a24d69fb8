"""Every change to SGLang that the guard makes, in one list: what is wrong upstream, and when the change can go."""

from __future__ import annotations

from sglang.srt.plugins.hook_registry import HookType

from sglang_speed.guard import dead_ends, grammars, parameters, stop_patterns
from sglang_speed.host.hook import Hook
from sglang_speed.host.versions import NEWEST

_MANAGERS = "sglang.srt.managers"
_BATCH_INFO = "sglang.srt.sampling.sampling_batch_info.SamplingBatchInfo"
_DEAD_END = (
    "a grammar with a dead end, or one that ends before min_new_tokens, forbids every token, and torch.multinomial "
    "raises on NaN (sampler.py, sampling_from_probs_torch)"
)

HOOKS = (
    Hook(
        target=f"{_MANAGERS}.tokenizer_manager.TokenizerManager.generate_request",
        parameters=("self", "obj", "request"),
        kind=HookType.BEFORE,
        function=parameters.check_parameters,
        reason="SGLang computes with sampling parameters before it looks at their types, and makes any number `n` of "
        "requests in one go (io_struct.py, _handle_parallel_sampling)",
        remove_when="SGLang validates sampling parameters on arrival and bounds `n`",
    ),
    Hook(
        target=f"{_MANAGERS}.tokenizer_manager.TokenizerManager._create_tokenized_object",
        parameters=("self", "obj", "input_text", "input_ids", "input_embeds", "mm_inputs", "token_type_ids"),
        kind=HookType.AROUND,
        function=parameters.create_harmless,
        reason="values that SGLang lets through raise in the scheduler and end it: token ids (VocabParallelEmbedding), "
        "top_k, logit_bias (SamplingBatchInfo.from_schedule_batch), logprob_start_len (logprob_result_processor.py), "
        "top_logprobs_num (logprob_processor.py), input_embeds (ModelRunner: .bfloat16()), a schema that is no text "
        "(base_grammar_backend.py)",
        remove_when="SGLang's own validation refuses these values",
    ),
    Hook(
        target=f"{_MANAGERS}.schedule_batch.Req._check_str_based_finish",
        parameters=("self", "new_accepted_len"),
        kind=HookType.AROUND,
        function=stop_patterns.end_long_search,
        reason="it searches for stop_regex in the scheduler, without a bound on the time",
        remove_when="SGLang bounds the time of a search",
    ),
    Hook(
        target="sglang.srt.constrained.reasoner_grammar_backend.ReasonerGrammarBackend.__init__",
        parameters=("self", "grammar_backend", "reasoning_parser", "tokenizer", "enable_strict_thinking"),
        kind=HookType.AFTER,
        function=grammars.leave_masks_to_grammars,
        reason="with --reasoning-parser it reads functions for masks from the grammar backend, which only xgrammar's "
        "has: llguidance and outlines answer every constrained request with 400",
        remove_when="SGLang takes them from the grammar",
    ),
    Hook(
        target=f"{_BATCH_INFO}.apply_logits_bias",
        parameters=("self", "logits"),
        kind=HookType.AFTER,
        function=dead_ends.leave_a_choice,
        reason=_DEAD_END,
        remove_when="SGLang aborts a request that has no token left",
    ),
    Hook(
        target=f"{_BATCH_INFO}.apply_logits_bias_with_observer",
        parameters={NEWEST: ("self", "logits", "observer")},
        kind=HookType.AFTER,
        function=dead_ends.leave_a_choice,
        reason=f"with an observer of samples: {_DEAD_END}",
        remove_when="SGLang aborts a request that has no token left",
    ),
)
