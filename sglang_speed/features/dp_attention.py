"""Ranks that share layers but not batches: DP attention and expert parallelism. Refused.

Such batches are padded to one size, or their rows are split over ranks, before the deep rows are selected.
"""

from __future__ import annotations

from sglang_speed.features.base import Feature, Refusal, above_one, is_not, on
from sglang_speed.host.versions import NEWEST

_PADDED = "batches are padded across ranks"
_EXPERTS = "experts that are split over ranks are not proven with the deep band"

FEATURE = Feature(
    name="DP attention, expert parallelism",
    refusals=(
        Refusal("--enable-dp-attention", on("enable_dp_attention"), _PADDED),
        # what SGLang makes of --enable-dp-attention, which then reads as if it had not been given
        Refusal("--attn-dp-size (--enable-dp-attention)", above_one("attn_dp_size"), _PADDED, versions=(NEWEST,)),
        Refusal("--enable-dense-mlp-attn-tp", on("enable_dense_mlp_attn_tp"), _PADDED, versions=(NEWEST,)),
        Refusal("--enable-shared-experts-attn-tp", on("enable_shared_experts_attn_tp"), _PADDED, versions=(NEWEST,)),
        Refusal("--moe-dense-tp-size", on("moe_dense_tp_size"), _PADDED),
        Refusal("--moe-a2a-backend", is_not("moe_a2a_backend", None, "none"), _PADDED),
        Refusal("--enable-attn-tp-input-scattered", on("enable_attn_tp_input_scattered"), "rows are split over ranks"),
        Refusal("--enable-eplb", on("enable_eplb"), "it counts the rows of each layer"),
        Refusal("--enable-return-routed-experts", on("enable_return_routed_experts"), "deep layers route fewer rows"),
        Refusal(
            "--expert-distribution-recorder-mode",
            on("expert_distribution_recorder_mode"),
            "deep layers route fewer rows",
        ),
        Refusal("--ep-size", above_one("ep_size"), _EXPERTS),
        Refusal("--moe-dp-size", above_one("moe_dp_size"), _EXPERTS),
        Refusal("--dwdp-size", above_one("dwdp_size"), _EXPERTS),
        Refusal("--elastic-ep-backend", on("elastic_ep_backend"), "it renames the radix tree's keys as it grows"),
    ),
)
