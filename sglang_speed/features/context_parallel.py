"""Tokens of one request on different devices. Refused."""

from __future__ import annotations

from sglang_speed.features.base import Feature, Refusal, above_one, on
from sglang_speed.host.versions import NEWEST

_REASON = "deep rows are not split over ranks"
_SHARDED = "it expects one pool and one table"

FEATURE = Feature(
    name="context parallelism",
    refusals=(
        Refusal("--attn-cp-size", above_one("attn_cp_size"), _REASON),
        Refusal("--dcp-size", above_one("dcp_size"), _REASON),
        Refusal("--enable-prefill-cp", on("enable_prefill_cp"), _REASON),
        Refusal("--enable-cp-tp-group-sharing", on("enable_cp_tp_group_sharing"), _REASON, versions=(NEWEST,)),
        Refusal("--enable-kv-cache-sharding", on("enable_kv_cache_sharding"), _SHARDED, versions=(NEWEST,)),
        Refusal("--enable-dsa-cache-layer-split", on("enable_dsa_cache_layer_split"), _SHARDED, versions=(NEWEST,)),
        Refusal("--enable-layernorm-sp", on("enable_layernorm_sp"), _REASON, versions=(NEWEST,)),
        Refusal(
            "--enable-megamoe-for-layernorm-sp", on("enable_megamoe_for_layernorm_sp"), _REASON, versions=(NEWEST,)
        ),
    ),
)
