"""Forward: what a batch and the attention backend need to know of the deep bands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from sglang.srt.distributed.parallel_state import get_tensor_model_parallel_rank, get_tensor_model_parallel_world_size
from sglang.srt.layers.attention.base_attn_backend import AttentionBackend
from sglang.srt.model_executor.forward_batch_info import ForwardBatch

from sglang_speed.attention.adapters import Adapters
from sglang_speed.attention.banded import BandedAttnBackend, DeepAttention, DeepRunnerView, FromStates
from sglang_speed.attention.deep_batch import REQUEST_ROWS
from sglang_speed.errors import ConfigError
from sglang_speed.host.adapter import HOST
from sglang_speed.kv_pool.request_pool import banded
from sglang_speed.kv_pool.states import StateStore
from sglang_speed.models.from_states import attentions_of
from sglang_speed.served import speed_of
from sglang_speed.serving.fields import REQUEST_ROWS_OF_BATCH


def carry_request_rows(forward_batch: ForwardBatch, cls: type, batch: Any, model_runner: Any, **_: Any) -> None:
    """Hook after ForwardBatch.init_new: the request rows travel on the CPU as well."""
    if banded(model_runner.req_to_token_pool) is not None:
        REQUEST_ROWS_OF_BATCH.set(forward_batch, {REQUEST_ROWS: batch.req_pool_indices_cpu})


def carry_rows_to_replay(view: Any, *, forward_batch: ForwardBatch, **_: Any) -> None:
    """Hook after build_replay_fb_view: what a decode graph is planned on knows the request rows as well."""
    view.model_specific_states = forward_batch.model_specific_states


def build_per_band(original: Callable[..., AttentionBackend], *, model_runner: Any, **kwargs: Any) -> AttentionBackend:
    """Hook around _build_resolved_backend: build the resolved backend once per band."""
    pool = banded(model_runner.req_to_token_pool)
    if pool is None:
        return original(model_runner=model_runner, **kwargs)
    _settle_scales(model_runner.model, model_runner.kv_cache_dtype)
    shallow = original(model_runner=model_runner, **kwargs)
    views = [DeepRunnerView(model_runner, band) for band in pool.deep_bands]
    deep = [
        DeepAttention(view.band, view.layers, original(model_runner=view, **kwargs), view.kv_index_translator)
        for view in views
    ]
    manager = getattr(model_runner, "lora_manager", None)  # SGLang 0.5.17 has none where adapters are not served
    return BandedAttnBackend(shallow, deep, _from_states(model_runner), None if manager is None else Adapters(manager))


def _settle_scales(model: Any, dtype: torch.dtype) -> None:
    """Leave the scales of keys and values out where the cache does not hold fp8: nothing is divided by them as it is
    kept, and some backends would multiply by them all the same.

    ConfigError where the loader did not reach them.
    """
    for layer in attentions_of(model):
        if layer.k_scale is not None and layer.k_scale_float is None:
            raise ConfigError(
                f"sglang_speed: scales of the KV cache are not loaded into layer {layer.layer_id} of "
                f"{type(model).__name__}; serve a checkpoint without them"
            )
        if dtype.itemsize > 1:
            layer.k_scale = layer.v_scale = layer.k_scale_float = layer.v_scale_float = None


def _from_states(model_runner: Any) -> FromStates | None:
    """What deep bands begin with where the main pool has states."""
    config = speed_of(model_runner.model_config.hf_config)
    assert config is not None, "only a SPEED model has deep bands"
    if not config.keeps_states:
        return None
    args, num_ranks = HOST.resolved(model_runner.server_args), get_tensor_model_parallel_world_size()
    num_layers = model_runner.layer_info.num_effective_layers - config.prefill_layers
    store = StateStore(
        model_runner.token_to_kv_pool,
        config.prefill_layers,
        num_layers,
        model_runner.model_config.hidden_size,
        num_ranks,
        get_tensor_model_parallel_rank(),
    )
    max_rows = args.chunked_prefill_size if args.chunked_prefill_size > 0 else args.max_prefill_tokens
    return FromStates(store, max_rows, config.selection)
