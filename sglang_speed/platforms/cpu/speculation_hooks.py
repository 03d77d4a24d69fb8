"""Changes to SGLang for speculative decoding on a CPU. Owns the declarations; the functions are in `speculation` and
`drafting`."""

from __future__ import annotations

from sglang.srt.plugins.hook_registry import HookType

from sglang_speed.host.hook import Hook
from sglang_speed.host.versions import NEWEST
from sglang_speed.platforms.cpu import drafting, speculation

_TREE = ("candidates", "retrieve_index", "retrieve_next_token", "retrieve_next_sibling", "target_predict", "topk")
_LINES = ("req_pool_indices", "req_to_token", "start_offset", "end_offset", "out_cache_loc", "batch_size")
_BUILT_TREE = (
    "parent_list",
    "top_scores_index",
    "seq_lens",
    "tree_mask",
    "positions",
    *_TREE[1:4],
    "topk",
    "spec_steps",
    "num_verify_tokens",
    "tree_mask_mode",
)
_KERNELS = "sglang.kernels.ops.speculative"

_KERNELS_IN_PYTORCH = tuple(
    Hook(
        target=target,
        parameters={NEWEST: parameters},
        kind=HookType.REPLACE,
        function=function,
        reason="a Triton or CUDA kernel",
        remove_when="SGLang has it in PyTorch too",
    )
    for target, parameters, function in (
        (
            f"{_KERNELS}.spec_tree.verify_tree_greedy_func",
            ("predicts", "accept_index", "accept_token_num", *_TREE),
            speculation.verify_greedy_tree,
        ),
        (
            f"{_KERNELS}.cache_locs.fill_front_out_cache_loc_func",
            ("num_front", "out_cache_loc", "front_out_cache_loc"),
            speculation.fill_first_slots,
        ),
        (
            f"{_KERNELS}.eagle.fill_accept_out_cache_loc_func",
            ("accept_index", "out_cache_loc", "accept_out_cache_loc", "size"),
            speculation.fill_accepted_slots,
        ),
        ("sglang.srt.mem_cache.allocation.assign_req_to_token_pool_func", _LINES, speculation.write_slots),
        (
            f"{_KERNELS}.cache_locs.assign_draft_cache_locs_contiguous_func",
            (*_LINES[:2], "seq_lens", "out_cache_loc", "topk", "num_cols", "positions", "mrope"),
            speculation.slots_of_steps,
        ),
        (
            f"{_KERNELS}.eagle.fill_bonus_tokens_func",
            ("accept_tokens", "accept_lens", "bonus_tokens", "accept_stride", "batch_size"),
            speculation.last_accepted,
        ),
        (f"{_KERNELS}.spec_tree.build_tree_kernel_efficient_func", _BUILT_TREE, speculation.describe_chain),
    )
)

_DRAFT_BACKENDS = tuple(
    Hook(
        target=f"sglang.srt.speculative.draft_utils.DraftBackendFactory.{method}",
        parameters={NEWEST: ("self",)},
        kind=HookType.REPLACE,
        function=function,
        reason="SGLang has a list of attention backends that a draft model may have",
        remove_when="SGLang asks the platform for a draft model's attention",
    )
    for method, function in (
        ("create_decode_backend", drafting.steps_backend),
        ("create_draft_extend_backend", drafting.own_backend),
    )
)

_WHOLE_PROMPTS = tuple(
    Hook(
        target=f"sglang.srt.speculative.{target}",
        parameters={NEWEST: parameters},
        kind=HookType.AROUND,
        function=function,
        reason="SGLang gives a draft model of its own the text without its first token, as it does a head on states",
        remove_when="SGLang's STANDALONE reads whole prompts",
    )
    for target, parameters, function in (
        (
            "eagle_worker_v2.EagleDraftWorker._draft_extend_for_prefill",
            ("self", "batch", "target_hidden_states", "next_token_ids", "mm_input_embeds", "kv_loc_plan"),
            drafting.read_prompts,
        ),
        (
            "eagle_worker_v2.EagleDraftWorker._draft_extend_for_decode",
            ("self", "batch", "batch_result", "kv_loc_plan"),
            drafting.read_accepted,
        ),
        (
            "eagle_worker_common.prepare_for_draft",
            (
                "draft_input",
                "req_to_token_pool",
                "batch",
                "cuda_graph_runner",
                "draft_model_runner",
                "topk",
                "num_steps",
                "target_translator",
                "num_draft_tokens",
            ),
            drafting.prepare_drafts,
        ),
    )
)

SPECULATION_HOOKS = (*_KERNELS_IN_PYTORCH, *_DRAFT_BACKENDS, *_WHOLE_PROMPTS)
