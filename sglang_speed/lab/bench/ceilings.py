"""What the arithmetic allows at most: floating-point operations over the matrix rate, bytes over the bandwidth.

Plain Python, no torch. A floor is a time that no server beats on this machine; a ceiling is the ratio of two floors, so
neither the rate nor the bandwidth enters a ceiling where only one of them bounds the figure.
"""

from __future__ import annotations

from dataclasses import dataclass

from sglang_speed.config import SpeedConfig
from sglang_speed.method.cost import ModelShape


@dataclass(frozen=True)
class Rates:
    """What this machine was measured to do. flops: a large matrix product, per second. bandwidth: bytes per second,
    read and written."""

    flops: float
    bandwidth: float


@dataclass(frozen=True)
class Extend:
    """A prefill of `new` tokens after `prefix` cached ones. deep: of the new ones, how many pass all layers."""

    new: int
    deep: int
    prefix: int = 0


def extend_of(config: SpeedConfig, prompt_len: int, cached_len: int = 0) -> Extend:
    """What is computed for a prompt whose first `cached_len` tokens are in the tree: at least the tail, or the last
    token where there is no deep band."""
    least = 1 if config.is_stock else min(config.tail_tokens, prompt_len)
    prefix = min(cached_len, prompt_len - least)
    deep = prompt_len - prefix if config.is_stock else least
    return Extend(prompt_len - prefix, deep, prefix)


def extend_flops(shape: ModelShape, config: SpeedConfig, extend: Extend) -> int:
    """Two per weight and token, and four times `num_heads * head_dim` per pair of tokens that see each other."""
    shallow = _band_flops(shape, extend.new, extend.prefix)
    deep = _band_flops(shape, extend.deep, 0)
    head = 2 * shape.vocab_size * shape.hidden_size
    return config.prefill_layers * shallow + config.num_deep_layers * deep + head


def extend_bytes(shape: ModelShape, config: SpeedConfig, extend: Extend) -> int:
    """Every weight once, and the KV of the prefix in the layers that hold it."""
    return weight_bytes(shape, config) + config.prefill_layers * shape.kv_bytes_per_layer * extend.prefix


def decode_bytes(shape: ModelShape, config: SpeedConfig, context_len: int, batch_size: int) -> int:
    """What one decode step reads: every weight once, and the KV of each request; deep rows are few and left out."""
    kv = batch_size * context_len * config.prefill_layers * shape.kv_bytes_per_layer
    return weight_bytes(shape, config) + kv


def weight_bytes(shape: ModelShape, config: SpeedConfig) -> int:
    """All layers and the output head; of the embedding only a row per token is read."""
    elements = config.num_layers * shape.weights_per_layer + shape.vocab_size * shape.hidden_size
    return shape.weight_dtype_bytes * elements


def ttft_floor(shape: ModelShape, config: SpeedConfig, extend: Extend, rates: Rates) -> float:
    """Seconds: whichever of the two takes longer."""
    return max(
        extend_flops(shape, config, extend) / rates.flops,
        extend_bytes(shape, config, extend) / rates.bandwidth,
    )


def decode_flops(shape: ModelShape, config: SpeedConfig, context_len: int, batch_size: int) -> int:
    """Operations of one decode step; in the deep layers, what a token sees there is little and left out."""
    shallow = config.prefill_layers * shape.layer_flops(context_len)
    deep = config.num_deep_layers * shape.layer_flops(0)
    return batch_size * (shallow + deep + 2 * shape.vocab_size * shape.hidden_size)


def step_floor(shape: ModelShape, config: SpeedConfig, context_len: int, batch_size: int, rates: Rates) -> float:
    """Seconds of one decode step: whichever takes longer."""
    return max(
        decode_flops(shape, config, context_len, batch_size) / rates.flops,
        decode_bytes(shape, config, context_len, batch_size) / rates.bandwidth,
    )


def _band_flops(shape: ModelShape, new: int, prefix: int) -> int:
    pairs = new * prefix + new * (new + 1) // 2
    return 2 * shape.weights_per_layer * new + 4 * shape.num_heads * shape.head_dim * pairs
