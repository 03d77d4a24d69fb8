"""Where prefixes and KV are kept. The radix tree and no cache at all are served, on SGLang's ordinary pools."""

from __future__ import annotations

from typing import Any

from sglang.srt.environ import envs

from sglang_speed.features.base import Feature, Refusal, is_not, on
from sglang_speed.host.versions import NEWEST, OLDEST

_OTHER_CACHE = "another cache would not know the depth of what it holds"


def _has_cpp_tree(_: Any) -> bool:
    return bool(envs.SGLANG_EXPERIMENTAL_CPP_RADIX_TREE.get())


def _has_pool_of_windows(args: Any) -> bool:
    return bool(args.get_model_config().is_hybrid_swa)


def _has_pages_by_head(_: Any) -> bool:
    return bool(envs.SGLANG_USE_HND_KVCACHE.get())


FEATURE = Feature(
    name="prefix caches and pools",
    served=("radix cache", "--disable-radix-cache"),
    proof=("tests/inprocess/parity/test_every_setting.py", "tests/inprocess/parity/test_prefix_reuse.py"),
    gpu="Triton; FlashInfer in part",
    refusals=(
        Refusal("--enable-lmcache", on("enable_lmcache"), _OTHER_CACHE),
        Refusal("--enable-flexkv", on("enable_flexkv"), _OTHER_CACHE),
        Refusal("--radix-cache-backend", on("radix_cache_backend"), "another cache was not proven with the deep band"),
        Refusal(
            "SGLANG_EXPERIMENTAL_CPP_RADIX_TREE",
            _has_cpp_tree,
            "it does not keep extra_key apart, which the anchors do",
            versions=(OLDEST,),
        ),
        Refusal(
            "--enable-unified-cache-external-linker",
            on("enable_unified_cache_external_linker"),
            _OTHER_CACHE,
            versions=(NEWEST,),
        ),
        Refusal("--enable-linker-mla-dedup", on("enable_linker_mla_dedup"), _OTHER_CACHE, versions=(NEWEST,)),
        Refusal("SGLANG_USE_HND_KVCACHE", _has_pages_by_head, "not proven with the deep band", versions=(NEWEST,)),
        Refusal("--enable-hisparse", on("enable_hisparse"), "it replaces the request table"),
        Refusal("--enable-unified-memory", on("enable_unified_memory"), "it replaces the pools"),
        Refusal("--enable-page-major-kv-layout", on("enable_page_major_kv_layout"), "not proven with the deep band"),
        Refusal(
            "a pool of its own for layers with a sliding window",
            _has_pool_of_windows,
            "bands are cut out of one pool; give --disable-hybrid-swa-memory",
        ),
        Refusal("--kv-canary", is_not("kv_canary", "none"), "it expects one table and one pool"),
    ),
)
