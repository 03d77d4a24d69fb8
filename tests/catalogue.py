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

from sglang_speed.policies import DepthPolicy, PopPolicy, SpeedPolicy
from tests.half_deep import HalfDeep

# Policies

POLICIES: Mapping[str, type[DepthPolicy]] = {
    "speed": SpeedPolicy,
    "pop": PopPolicy,
    "half deep": HalfDeep,
}
"""`speed` is that of every test which names no other."""

# Models

NUM_LAYERS = 8


SHAPE = {"num_layers": NUM_LAYERS, "hidden_size": 32, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8}

_EVERY_SECOND = ["sliding_attention", "full_attention"] * (NUM_LAYERS // 2)
_ALL_BUT_EVERY_FOURTH = (["sliding_attention"] * 3 + ["full_attention"]) * (NUM_LAYERS // 4)
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True}
_LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_GROUPED_EXPERTS = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
_GEMMA = {"tie_word_embeddings": True, "query_pre_attn_scalar": 16, "sliding_window": 8}
_GRANITE = {
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.5,
    "attention_multiplier": 0.25,
    "logits_scaling": 2.0,
}
_YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 512}
_LATENT = {
    "moe_layer_freq": 1,
    "topk_method": "noaux_tc",
    "scoring_func": "sigmoid",
    "q_lora_rank": None,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "rope_parameters": {**_YARN, "mscale": 1.0, "mscale_all_dim": 1.0, "beta_fast": 32, "beta_slow": 1},
}
_ROPE_IN_SPACE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
_EYES = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32}

MODELS: dict[str, dict[str, Any]] = {
    name: {**SHAPE, "model_type": name, **more}
    for name, more in {
        "qwen3": {},
        "qwen3_moe": _EXPERTS,
        "llama": {},
        "mistral": {"sliding_window": None},
        "ministral3": {},
        "qwen2": {},
        "qwen2_moe": {**_EXPERTS, "decoder_sparse_step": 1, "shared_expert_intermediate_size": 32},
        "gemma3_text": {**_GEMMA, "layer_types": _ALL_BUT_EVERY_FOURTH},
        "gemma2": {**_GEMMA, "layer_types": _EVERY_SECOND, "hidden_act": "gelu_pytorch_tanh"},
        "gpt_oss": {**_LOCAL_EXPERTS, "swiglu_limit": 7.0, "sliding_window": 8, "layer_types": _EVERY_SECOND},
        "glm4": {"partial_rotary_factor": 0.5},
        "glm4_moe": {**_GROUPED_EXPERTS, "partial_rotary_factor": 0.5, "num_nextn_predict_layers": 1},
        "deepseek_v3": {**_GROUPED_EXPERTS, **_LATENT, "num_kv_heads": 4, "num_nextn_predict_layers": 1},
        "mixtral": _LOCAL_EXPERTS,
        "phi3": {},
        "olmo2": {},
        "granite": _GRANITE,
        "exaone4": {
            "sliding_window": 8,
            "sliding_window_pattern": "LLLG",
            "layer_types": _ALL_BUT_EVERY_FOURTH,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        },
        "cohere": {"tie_word_embeddings": True, "logit_scale": 1.0},
        "starcoder2": {"use_bias": True},
        "stablelm": {},
        "qwen2_5_vl": {"rope_parameters": _ROPE_IN_SPACE, "vision_config": {**_EYES, "fullatt_block_indexes": [1]}},
        "qwen3_vl": {
            "rope_parameters": {**_ROPE_IN_SPACE, "mrope_interleaved": True},
            "vision_config": {**_EYES, "deepstack_visual_indexes": [0, 1]},
        },
        "smollm3": {"no_rope_layer_interval": 4},
        "ernie4_5": {},
    }.items()
}
"""Arguments of `make_tiny_model`, by model type. All go through test_every_architecture; what names no model is asked
of `llama`, which goes through ALL_BANDS and CASES too."""

# Bands


@dataclass(frozen=True)
class Bands:
    """The `speed` object of a checkpoint; the defaults leave two of eight layers to the deep band."""

    prefill_layers: int | tuple[int, ...] = 6
    anchor_tokens: int = 1
    tail_tokens: int = 3
    policy: str = "speed"
    select_ratio: float | tuple[float, ...] | None = None
    select_window: int | None = None
    select_kernel: int | None = None
    kv_keep: float | None = None
    deep_message_tokens: int | None = None
    message_delimiters: tuple[tuple[int, ...], ...] | None = None

    @property
    def speed(self) -> dict[str, Any]:
        """The `speed` object; what is None is left out."""
        return {key: value for key, value in vars(self).items() if value is not None}

    @property
    def is_filled(self) -> bool:
        """Whether a deep band shows every token."""
        return self.policy == "pop"


DEEP_BANDS = [Bands(*bands) for bands in product((NUM_LAYERS // 2, NUM_LAYERS * 3 // 4), (0, 1, 4), (1, 2, 3, 16))]
STOCK_BANDS = [Bands(NUM_LAYERS, 0, 1), Bands(NUM_LAYERS, 4, 16)]
SEVERAL_BANDS = [Bands((2, 5), 1, 3), Bands((3, 4, 6), 4, 2)]
POP, POP_WITH_ANCHORS = Bands(6, 0, 1, "pop"), Bands(4, 2, 3, "pop")
POP_BANDS = [POP, POP_WITH_ANCHORS, Bands(1, 0, 16, "pop"), Bands(NUM_LAYERS, 0, 1, "pop")]
FASTKV = Bands(4, 1, 3, "fastkv", select_ratio=0.4)
FASTKV_TWICE = Bands((3, 5), 2, 3, "fastkv", select_ratio=(0.6, 0.3), select_window=4, select_kernel=3)
THINNED = Bands(4, 1, 3, "fastkv", select_ratio=0.6, select_window=4, kv_keep=0.3)
THINNED_TWICE = Bands((2, 5), 2, 5, "fastkv", select_ratio=(0.7, 0.4), select_window=3, select_kernel=3, kv_keep=0.4)
FASTKV_BANDS = [
    FASTKV,
    FASTKV_TWICE,
    THINNED,
    THINNED_TWICE,
    Bands(1, 0, 1, "fastkv", select_ratio=0.1, select_window=1, select_kernel=1),
    Bands(NUM_LAYERS - 1, 4, 12, "fastkv", select_ratio=1.0),
    Bands(NUM_LAYERS, 1, 3, "fastkv"),
]
SHORT_MESSAGES = {"deep_message_tokens": 6, "message_delimiters": ((60,), (61, 62), (70,), (80,))}
"""Tokens that stand in most random prompts of some length begin a message."""
WITH_MESSAGES = Bands(6, 1, 3, **SHORT_MESSAGES)
POP_WITH_MESSAGES = Bands(6, 1, 2, "pop", **SHORT_MESSAGES)
FASTKV_WITH_MESSAGES = Bands(4, 1, 3, "fastkv", select_ratio=0.4, **SHORT_MESSAGES)
MESSAGE_BANDS = [WITH_MESSAGES, POP_WITH_MESSAGES, FASTKV_WITH_MESSAGES, Bands((3, 6), 0, 4, **SHORT_MESSAGES)]
STATE_BANDS = [FASTKV, FASTKV_TWICE, THINNED, WITH_MESSAGES, POP_WITH_MESSAGES]
"""What begins with states in some deep band, for tests of many settings."""
ALL_BANDS = [
    *DEEP_BANDS,
    *STOCK_BANDS,
    *SEVERAL_BANDS,
    *POP_BANDS,
    *FASTKV_BANDS,
    *MESSAGE_BANDS,
    Bands(1, 1, 2),
    Bands(NUM_LAYERS - 1, 9, 5),
]
LONG_TAIL, FOUR_ANCHORS = Bands(6, 1, 16), Bands(4, 4, 2)

# Settings of the scheduler: fields of ServerArgs, and the arguments of `running_scheduler`

CHUNKS_OF_16, CHUNKS_OF_17 = {"chunked_prefill_size": 16}, {"chunked_prefill_size": 17}
NO_OVERLAP = {"disable_overlap_schedule": True}
NO_CACHE = {"disable_radix_cache": True}
PAGES = {"page_size": 16}
LONGEST_PREFIX_FIRST = {"schedule_policy": "lpm"}
RETRACTED = {"retract_every": 3}
MIXED = {"enable_mixed_chunk": True}
"""Not with the oldest SGLang."""

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
    "mixed chunks of 16": MIXED | CHUNKS_OF_16,
    "mixed chunks of 48, pages, no overlap": MIXED | PAGES | NO_OVERLAP | {"chunked_prefill_size": 48},
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

WITH_FOUR_ANCHORS = (
    "defaults",
    "chunks of 16",
    "no overlap, chunks of 17",
    "pages, chunks of 16",
    "no cache",
    "mixed chunks of 16",
)
CASES = [
    *((name, LONG_TAIL) for name in SETTINGS),
    *((name, bands) for bands in (FOUR_ANCHORS, POP_WITH_ANCHORS, *STATE_BANDS) for name in WITH_FOUR_ANCHORS),
]
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
