"""Prefixes kept in the CPU's memory or on disk. Refused."""

from __future__ import annotations

from sglang_speed.features.base import Feature, Refusal, on

_REASON = "not proven with the deep band"

FEATURE = Feature(
    name="hierarchical cache",
    refusals=(
        Refusal("--enable-hierarchical-cache", on("enable_hierarchical_cache"), _REASON),
        Refusal("--hicache-storage-backend", on("hicache_storage_backend"), _REASON),
    ),
)
