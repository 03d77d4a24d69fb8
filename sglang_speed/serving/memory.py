"""Pools: the KV budget split between the bands, and the deep bands built beside SGLang's pools."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import msgspec
import torch
from sglang.srt.mem_cache.allocator.token import TokenToKVPoolAllocator
from sglang.srt.mem_cache.kv_cache_configurator import KVCacheConfigurator
from sglang.srt.mem_cache.memory_pool import KVCache, ReqToTokenPool
from sglang.srt.model_executor.model_runner_components.layer_setup import ModelLayerInfo
from sglang.srt.model_executor.pool_configurator import (
    DefaultPoolConfigurator,
    MemoryPoolConfig,
    MemoryPoolConfigurator,
)

from sglang_speed.checkpoints.adapter import UNTRAINED_COST, UNTRAINED_NEXT, Training, training_of
from sglang_speed.checkpoints.hub import checkpoint_directory
from sglang_speed.config import SpeedConfig
from sglang_speed.errors import ConfigError
from sglang_speed.host.adapter import HOST
from sglang_speed.host.check import require_ran
from sglang_speed.kv_pool.capacity import (
    DeepTables,
    cap_deep_tokens,
    deep_tokens_beside,
    split_kv_bytes,
    table_width,
)
from sglang_speed.kv_pool.deep_band import DeepBand
from sglang_speed.kv_pool.request_pool import BandedReqToTokenPool
from sglang_speed.method.bands import THINNED, DepthBand, depth_bands, thinned_band
from sglang_speed.policies import ThinnedPolicy, policy_of
from sglang_speed.served import ServedModel, serve, speed_of
from sglang_speed.serving.agreement import compare_memory
from sglang_speed.serving.fields import SETTINGS
from sglang_speed.serving.refusals import refuse_unsupported

logger = logging.getLogger(__name__)


class BandedPoolConfigurator(DefaultPoolConfigurator):
    """SGLang's configurator, with a share of the budget kept for the deep bands."""

    def __init__(self, kvc: KVCacheConfigurator, config: SpeedConfig) -> None:
        super().__init__(kvc)
        self._kvc = kvc
        self._config = config
        num_layers = kvc.layer_info.num_effective_layers
        own_bytes = self._compute_cell_size(kvc, num_layers)
        self._bytes_per_layer = own_bytes // num_layers
        draft_bytes = self._cell_size - own_bytes  # of a draft model, for each token
        num_draft_layers = -(-draft_bytes // self._bytes_per_layer)
        self._state_layers = num_layers - config.prefill_layers + num_draft_layers
        require_ran(kvc.server_args, SETTINGS)
        self._override = SETTINGS.get(kvc.server_args, None).deep_tokens

    def calculate_pool_sizes(self, available_bytes: int, page_size: int) -> MemoryPoolConfig:
        # no more requests than SGLang would let run if the shallow band had all of the memory
        tables = self._tables(self._kvc.resolve_max_num_reqs(available_bytes // self._cell_size))
        split = split_kv_bytes(
            self._config, available_bytes, self._bytes_per_layer, page_size, self._override, tables, self._state_layers
        )
        return MemoryPoolConfig(max_total_num_tokens=split.prompt_tokens)

    def deep_tokens(self, sizes: Any) -> int:
        """Tokens of each deep band's pool beside a shallow pool whose size is final."""
        tables = self._tables(sizes.max_running_requests)
        requested = deep_tokens_beside(
            self._config,
            sizes.max_total_num_tokens,
            self._bytes_per_layer,
            self._override,
            tables,
            self._state_layers,
        )
        limits = sizes.max_running_requests, tables.max_width
        # the lowest deep band holds the most
        policy = policy_of(self._config, depth_bands(self._config)[1])
        return cap_deep_tokens(policy, requested, *limits, HOST.num_ahead())

    def _tables(self, num_requests: int) -> DeepTables:
        """One row more than requests: row 0 is padding."""
        args = HOST.resolved(self._kvc.server_args)
        graphs = args.cuda_graph_config.decode
        has_graphs = args.device == "cuda" and graphs.backend != "disabled"
        context_len = self._kvc.model_config.context_len + HOST.extra_context_len(args)
        num_graph_rows = min(graphs.max_bs, num_requests) if has_graphs else 0
        num_drafts = args.speculative_num_draft_tokens or 0
        return DeepTables(num_requests + 1, num_graph_rows, context_len, num_drafts)


def split_budget(
    original: Callable[[KVCacheConfigurator], MemoryPoolConfigurator], kvc: KVCacheConfigurator
) -> MemoryPoolConfigurator:
    """Hook around create_memory_pool_configurator."""
    config = speed_of(kvc.model_config.hf_config)
    if config is None or config.is_stock:
        return original(kvc)
    return BandedPoolConfigurator(kvc, config)


def build_deep_bands(pools: Any, kvc: KVCacheConfigurator, *, sizes: Any, **_: Any) -> Any:
    """Hook after KVCacheConfigurator._init_pools: the same pools, with deep bands on the request pool."""
    config = speed_of(kvc.model_config.hf_config)
    if config is None:
        return None
    require_ran(kvc.server_args, SETTINGS)
    refuse_unsupported(kvc.server_args)
    _require_computed_alone_in_fp8(config, kvc.kv_cache_dtype)
    request_pool = None if config.is_stock else _banded_request_pool(kvc, config, sizes, pools.req_to_token_pool)
    prompt_tokens = sizes.max_total_num_tokens
    args = HOST.resolved(kvc.server_args)
    model = ServedModel(
        config, pools.token_to_kv_pool, prompt_tokens, args.tp_size, request_pool, kvc.model, kvc.model_config
    )
    compare_memory(args, sizes, {band.name: band.capacity for band in model.deep_bands})
    serve(model)
    if args.enable_hierarchical_cache and config.fills_deep_layers and request_pool is not None:
        from sglang_speed.serving.host_cache import keep_filled  # parts of SGLang that little else needs

        keep_filled(pools.token_to_kv_pool, request_pool.deep_bands[0])
    logger.info(_summary(model))
    _warn_where_untrained(args)
    return None if request_pool is None else msgspec.structs.replace(pools, req_to_token_pool=request_pool)


def _require_computed_alone_in_fp8(config: SpeedConfig, dtype: torch.dtype) -> None:
    """What SGLang has made of a quantized checkpoint; `features.kv_cache_dtype` refuses it by name before."""
    if dtype.itemsize == 1 and config.stores_uncomputed:
        raise ConfigError(
            f"sglang_speed: a KV cache of {dtype} is not supported with policy {config.policy} or short messages; add "
            "--kv-cache-dtype bfloat16"
        )


def _banded_request_pool(
    kvc: KVCacheConfigurator, config: SpeedConfig, sizes: Any, stock_pool: ReqToTokenPool
) -> BandedReqToTokenPool:
    if kvc.post_capture_kv_active:
        raise ConfigError(
            "sglang_speed: KV pools sized after CUDA graph capture are not supported; start with --disable-cuda-graph"
        )
    num_tokens = BandedPoolConfigurator(kvc, config).deep_tokens(sizes)
    pool = BandedReqToTokenPool.adopt(stock_pool)
    bands = [_deep_band(kvc, config, band, num_tokens, sizes, stock_pool) for band in depth_bands(config)[1:]]
    if config.is_thinned:
        bands.append(_deep_band(kvc, config, thinned_band(config), num_tokens, sizes, stock_pool))
    pool.attach(bands)
    return pool


def _deep_band(
    kvc: KVCacheConfigurator, config: SpeedConfig, band: DepthBand, num_tokens: int, sizes: Any, stock_pool: Any
) -> DeepBand:
    """num_tokens: slots of the band's own. sizes: of the main pool, whose slots follow them where KV is filled in."""
    num_rows, context_len = stock_pool.req_to_token.shape
    # slot 0 of each is padding, and the main pool's last page may end a page beyond its size
    filled = 1 + sizes.max_total_num_tokens + kvc.page_size if config.fills_deep_layers else 0
    pool_sizes = msgspec.structs.replace(sizes, max_total_num_tokens=num_tokens + filled)
    allocator = TokenToKVPoolAllocator(
        num_tokens,
        dtype=kvc.kv_cache_dtype,
        device=kvc.device,
        kvcache=_deep_kv_pool(kvc, band, pool_sizes, stock_pool),
        need_sort=False,
    )
    width = table_width(config, num_tokens, context_len)
    is_thinned = band.name == THINNED
    policy = ThinnedPolicy.of(config) if is_thinned else policy_of(config, band)
    grows = is_thinned or not config.is_thinned
    num_ahead = HOST.num_ahead() if grows else 0
    return DeepBand(policy, allocator, num_rows, width, kvc.device, band.name, grows, kvc.page_size, num_ahead)


def _deep_kv_pool(kvc: KVCacheConfigurator, band: DepthBand, sizes: Any, request_pool: ReqToTokenPool) -> KVCache:
    """The pool class that SGLang chose for the main pool, for the layers of a deep band."""
    layers = ModelLayerInfo(
        start_layer=band.first_layer, end_layer=band.end_layer, num_effective_layers=band.num_layers
    )
    pool = dataclasses.replace(kvc, layer_info=layers)._build_token_to_kv_pool(
        sizes=sizes,
        is_dsa_model=False,
        is_dsv4_model=False,
        req_to_token_pool=request_pool,
    )
    HOST.finish_pool(pool, band.first_layer)
    return pool


def _warn_where_untrained(args: Any) -> None:
    if args.load_format == "dummy":
        return  # random weights
    if training_of(checkpoint_directory(args.model_path, args.revision)) is Training.UNTRAINED:
        logger.warning(f"sglang_speed: {UNTRAINED_COST}; {UNTRAINED_NEXT}")


def _summary(model: ServedModel) -> str:
    """The one start-up line that says what the model is."""
    config, prompt_tokens = model.config, model.prompt_tokens
    if model.request_pool is None:
        return f"sglang_speed: all {config.num_layers} layers for every token (the stock model); {prompt_tokens} tokens"
    kept = model.kv_pool.layer_num - config.prefill_layers + config.stored_layers
    saved = 100 * (config.num_layers - kept) / config.num_layers
    rooms = [f"{band.capacity} in the {band.name} band" for band in model.deep_bands]
    written = {"policy": config.policy, **config.to_dict()}
    told = [f"{key}={value}" for key, value in written.items() if key not in ("prefill_layers", "message_delimiters")]
    return (
        f"sglang_speed: prompt tokens pass {config.prefill_layers} of {config.num_layers} layers ({', '.join(told)}), "
        f"{saved:.0f}% less KV per prompt token; room for "
        f"{' and '.join([f'{prompt_tokens} tokens in the shallow band', *rooms])}"
    )
