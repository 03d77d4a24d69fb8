"""Ranks that share layers but not batches: DP attention and expert parallelism. Refused.

Such batches are padded to one size, or their rows are split over ranks, before the deep rows are selected.
"""

from __future__ import annotations

from sglang_speed.features.base import Feature, Refusal, is_not, on

_PADDED = "batches are padded across ranks"

FEATURE = Feature(
    name="DP attention, expert parallelism",
    refusals=(
        Refusal("--enable-dp-attention", on("enable_dp_attention"), _PADDED),
        Refusal("--moe-dense-tp-size", on("moe_dense_tp_size"), _PADDED),
        Refusal("--moe-a2a-backend", is_not("moe_a2a_backend", None, "none"), _PADDED),
        Refusal("--enable-attn-tp-input-scattered", on("enable_attn_tp_input_scattered"), "rows are split over ranks"),
        Refusal("--elastic-ep-backend", on("elastic_ep_backend"), "it renames the radix tree's keys as it grows"),
    ),
)
