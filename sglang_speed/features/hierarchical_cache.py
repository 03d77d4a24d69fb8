"""Prefixes kept in the host's memory too, and in files. Served; other stores are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sglang_speed.features.base import Feature, Refusal, above_one, asks_for_adapters, is_not, on
from sglang_speed.host.versions import NEWEST, OLDEST

STORES = ("file",)
"""Behind the host's memory."""
KNOWS_NO_WEIGHTS = "a store knows an adapter by its name and path, whatever its weights are"


def _beside(other: str, is_set: Callable[[Any], bool], reason: str) -> Refusal:
    """What is not served beside the hierarchical cache."""
    return Refusal(
        f"--enable-hierarchical-cache with {other}",
        lambda args: bool(args.enable_hierarchical_cache) and is_set(args),
        reason,
        message=lambda _: (
            f"--enable-hierarchical-cache is not supported with {other} ({reason}); leave one of them out"
        ),
    )


def _stores_adapted(args: Any) -> bool:
    return bool(args.hicache_storage_backend) and asks_for_adapters(args)


FEATURE = Feature(
    name="hierarchical cache",
    served=("--enable-hierarchical-cache", "--hicache-storage-backend file"),
    proof=(
        "tests/inprocess/parity/test_hierarchical_cache.py",
        "tests/server/e2e/test_stored_prefixes_over_http.py",
    ),
    refusals=(
        Refusal(
            "--enable-hierarchical-cache",
            on("enable_hierarchical_cache"),
            "its host pools have no place for what is filled in",
            versions=(OLDEST,),
        ),
        Refusal(
            "--hicache-storage-backend",
            is_not("hicache_storage_backend", None, *STORES),
            "that its keys hold depth, policy and weights was proven for files only; they are served",
        ),
        Refusal(
            "--hicache-storage-backend with --enable-lora",
            _stores_adapted,
            KNOWS_NO_WEIGHTS,
            message=lambda _: (
                f"--hicache-storage-backend is not supported with --enable-lora ({KNOWS_NO_WEIGHTS}); leave one of "
                "them out"
            ),
            versions=(NEWEST,),
        ),
        _beside("--nnodes above 1", above_one("nnodes"), "not proven over several machines"),
        Refusal(
            "--hicache-host-memory-mode",
            is_not("hicache_host_memory_mode", "cache"),
            "not proven with the deep band",
            versions=(NEWEST,),
        ),
    ),
)
