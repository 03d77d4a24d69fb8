"""What the parity tests go through: policies, models, bands, settings and attention backends, one row each.

A new one is a row here and what the row names; the tests that take their parameters from its table then run it. Holds
no checks. Must not import sglang, so that unit tests may use it.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from sglang_speed.policies import DepthPolicy, SpeedPolicy
from tests.half_deep import HalfDeep

# Policies

POLICIES: Mapping[str, type[DepthPolicy]] = {
    "speed": SpeedPolicy,
    "half deep": HalfDeep,
}
"""`speed` is that of every test which names no other."""

# Models

NUM_LAYERS = 8


MODELS: dict[str, dict[str, Any]] = {
    "llama": {"num_layers": NUM_LAYERS, "hidden_size": 32, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8},
}
"""Arguments of `make_tiny_llama`. All go through `ALL_BANDS` and `CASES`; what names no model is asked of `llama`."""
SHAPE = MODELS["llama"]

# Bands


@dataclass(frozen=True)
class Bands:
    """The `speed` object of a checkpoint; the defaults leave two of eight layers to the deep band."""

    prefill_layers: int | tuple[int, ...] = 6
    anchor_tokens: int = 1
    tail_tokens: int = 3


DEEP_BANDS = [Bands(*bands) for bands in product((NUM_LAYERS // 2, NUM_LAYERS * 3 // 4), (0, 1, 4), (1, 2, 3, 16))]
STOCK_BANDS = [Bands(NUM_LAYERS, 0, 1), Bands(NUM_LAYERS, 4, 16)]
SEVERAL_BANDS = [Bands((2, 5), 1, 3), Bands((3, 4, 6), 4, 2)]
ALL_BANDS = [*DEEP_BANDS, *STOCK_BANDS, *SEVERAL_BANDS, Bands(1, 1, 2), Bands(NUM_LAYERS - 1, 9, 5)]
LONG_TAIL, FOUR_ANCHORS = Bands(6, 1, 16), Bands(4, 4, 2)

# Settings of the scheduler: fields of ServerArgs, and the arguments of `running_scheduler`

CHUNKS_OF_16, CHUNKS_OF_17 = {"chunked_prefill_size": 16}, {"chunked_prefill_size": 17}
NO_OVERLAP = {"disable_overlap_schedule": True}
NO_CACHE = {"disable_radix_cache": True}
PAGES = {"page_size": 16}
LONGEST_PREFIX_FIRST = {"schedule_policy": "lpm"}
RETRACTED = {"retract_every": 3}

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "defaults": {},
    "unlimited chunks": {"chunked_prefill_size": -1},
    "chunks of 16": CHUNKS_OF_16,
    "chunks of 17": CHUNKS_OF_17,
    "chunks of 64": {"chunked_prefill_size": 64},
    "no overlap": NO_OVERLAP,
    "no overlap, chunks of 17": NO_OVERLAP | CHUNKS_OF_17,
    "pages": PAGES,
    "pages, chunks of 16": PAGES | CHUNKS_OF_16,
    "pages, no overlap": PAGES | NO_OVERLAP,
    "no cache": NO_CACHE,
    "no cache, chunks of 17": NO_CACHE | CHUNKS_OF_17,
    "no cache, pages": NO_CACHE | PAGES,
    "three requests at a time": {"max_running_requests": 3},
    "longest prefix first": LONGEST_PREFIX_FIRST,
    "longest prefix first, chunks of 16": LONGEST_PREFIX_FIRST | CHUNKS_OF_16,
}
SOME_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "defaults": {},
    "no overlap": NO_OVERLAP,
    "chunks of 17": CHUNKS_OF_17,
    "pages of 16": PAGES,
    "no cache, chunks of 16": NO_CACHE | CHUNKS_OF_16,
}
"""Where all of them would take too long."""
FP8_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "defaults": {},
    "no overlap, chunks of 17": NO_OVERLAP | CHUNKS_OF_17,
    "pages, chunks of 16": PAGES | CHUNKS_OF_16,
    "no cache": NO_CACHE,
    "retracted": RETRACTED,
}
GPU_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "defaults": {},
    "no overlap": NO_OVERLAP,
    "pages of 16": PAGES,
    "no cache": NO_CACHE,
    "retracted": RETRACTED,
}

WITH_FOUR_ANCHORS = ("defaults", "chunks of 16", "no overlap, chunks of 17", "pages, chunks of 16", "no cache")
CASES = [(name, LONG_TAIL) for name in SETTINGS] + [(name, FOUR_ANCHORS) for name in WITH_FOUR_ANCHORS]
"""Settings by bands, for a workload of all kinds."""

# Attention backends


@dataclass(frozen=True)
class AttentionBackend:
    """A backend of SGLang's in both bands.

    stand_in: what runs it on a CPU, as module:function of tests/inprocess/parity; it gives the backend's class.
    fp8: dtypes of the KV cache that it is tested with. rounds: arguments of `Rounding`, what it rounds with them.
    is_interpreted: far too slow for the workloads of the others. on_gpu: tests/gpu runs it.
    """

    stand_in: str
    fp8: tuple[str, ...] = ()
    rounds: Mapping[str, bool] = field(default_factory=dict)
    is_interpreted: bool = False
    on_gpu: bool = False

    def without_gpu(self) -> AbstractContextManager[type]:
        """Until the block ends, schedulers of the CPU platform run the backend; gives the class that bands have."""
        module, _, name = self.stand_in.partition(":")
        stand_in = getattr(importlib.import_module(f"tests.inprocess.parity.{module}"), name)
        runs: AbstractContextManager[type] = stand_in()
        return runs


BACKENDS: Mapping[str, AttentionBackend] = {
    "flashinfer": AttentionBackend(
        stand_in="flashinfer_standin:flashinfer_standin",
        fp8=("fp8_e4m3", "fp8_e5m2"),
        rounds={"own_rows": False},
        on_gpu=True,
    ),
    "fa3": AttentionBackend(
        stand_in="flash_attention_standin:flash_attention_standin",
        fp8=("fp8_e4m3",),
        rounds={"queries": True},
    ),
    "triton": AttentionBackend(
        stand_in="triton_interpreter:triton_interpreted",
        fp8=("fp8_e4m3", "fp8_e5m2"),
        rounds={"own_rows": False, "queries": True, "weights": True},
        is_interpreted=True,
        on_gpu=True,
    ),
}
"""All tests that name none run the CPU platform's own."""
STANDINS = [name for name, backend in BACKENDS.items() if not backend.is_interpreted]
ON_GPU = [name for name, backend in BACKENDS.items() if backend.on_gpu]
