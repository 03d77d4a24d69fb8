"""Tokens of one request on different devices. Refused."""

from __future__ import annotations

from sglang_speed.features.base import Feature, Refusal, above_one, on

_REASON = "deep rows are not split over ranks"

FEATURE = Feature(
    name="context parallelism",
    refusals=(
        Refusal("--attn-cp-size", above_one("attn_cp_size"), _REASON),
        Refusal("--dcp-size", above_one("dcp_size"), _REASON),
        Refusal("--enable-prefill-cp", on("enable_prefill_cp"), _REASON),
    ),
)
