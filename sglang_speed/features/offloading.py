"""Weights that lie in the CPU's memory and come layer by layer. Refused."""

from __future__ import annotations

from sglang_speed.features.base import Feature, Refusal, on
from sglang_speed.host.versions import NEWEST

_REASON = "offloading expects every layer in every forward"

FEATURE = Feature(
    name="offloading of weights",
    refusals=(
        Refusal("--cpu-offload-gb", on("cpu_offload_gb"), _REASON),
        Refusal("--ple-offload-embedding", on("ple_offload_embedding"), _REASON, versions=(NEWEST,)),
        Refusal("--enable-paged-experts", on("enable_paged_experts"), _REASON, versions=(NEWEST,)),
        Refusal("--offload-group-size", lambda args: args.offload_group_size > 0, _REASON),
    ),
)
