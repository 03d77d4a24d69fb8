"""SGLang's features, one file each: its flags, whether they are served with depth bands, the proof or the reason.

What is not proven with two bands is refused at start-up by name. To make a feature work: take its refusal out of its
file, list the changes to SGLang that it needs there (`hooks`), name the tests that prove it (`proof`), and move its row
in tests/server/e2e/test_refused_settings.py and docs/features.md. A new feature is a new file and a name in `MODULES`.

base     the contract

Imports `config`, `errors`, `served`, `host` and the table of models of this package, never `serving`, `guard` or the
lab.
"""

from __future__ import annotations

from itertools import chain

from sglang_speed.features import (
    attention_backends,
    caches_and_pools,
    chunks_and_pages,
    combinations,
    context_parallel,
    cuda_graphs,
    disaggregation,
    dp_attention,
    entry_points,
    grammars,
    hierarchical_cache,
    kv_cache_dtype,
    loading,
    lora,
    offloading,
    overlap,
    pipeline_parallel,
    prefill_only,
    quantization,
    sessions,
    speculation,
    states,
    tensor_parallel,
)
from sglang_speed.features.base import Feature, Refusal, Status

__all__ = ["FEATURES", "HOOKS", "MODULES", "REFUSALS", "RESOLUTION_HOOKS", "Feature", "Refusal", "Status"]

MODULES = (
    combinations,
    speculation,
    lora,
    disaggregation,
    sessions,
    prefill_only,
    tensor_parallel,
    pipeline_parallel,
    context_parallel,
    dp_attention,
    overlap,
    entry_points,
    grammars,
    offloading,
    chunks_and_pages,
    hierarchical_cache,
    caches_and_pools,
    loading,
    quantization,
    attention_backends,
    kv_cache_dtype,
    states,
    cuda_graphs,
)
"""In the order in which they are asked. A feature often sets flags of features below it, so it comes first and is the
one that is named."""

FEATURES = tuple(module.FEATURE for module in MODULES)
REFUSALS = tuple(chain.from_iterable(feature.refusals for feature in FEATURES))
HOOKS = tuple(chain.from_iterable(feature.hooks for feature in FEATURES))
RESOLUTION_HOOKS = tuple(chain.from_iterable(feature.resolution_hooks for feature in FEATURES))
