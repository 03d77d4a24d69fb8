"""What a token costs in each band, in bytes and in floating-point operations, and the floors and ceilings that follow.

The only cost model. A floor is a time that no server beats on a machine of given rates; a ceiling is a ratio of two
floors, the most that can be gained. A measurement is printed beside them.
"""

from __future__ import annotations

from dataclasses import dataclass

from sglang_speed.config import SpeedConfig


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a Llama-architecture model.

    kv_dtype_bytes, weight_dtype_bytes: bytes per element of the KV cache and of the weights.
    """

    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    kv_dtype_bytes: int = 2
    weight_dtype_bytes: int = 2

    @property
    def kv_bytes_per_layer(self) -> int:
        """Bytes of keys and values of one token in one layer, `c`."""
        return 2 * self.num_kv_heads * self.head_dim * self.kv_dtype_bytes

    @property
    def weights_per_layer(self) -> int:
        """Elements of one decoder layer's matrices (attention projections and the gated MLP)."""
        q_and_o = 2 * self.hidden_size * self.num_heads * self.head_dim
        k_and_v = 2 * self.hidden_size * self.num_kv_heads * self.head_dim
        return q_and_o + k_and_v + 3 * self.hidden_size * self.intermediate_size

    def layer_flops(self, context_len: int) -> int:
        """Operations of one token in one layer when it attends to `context_len` tokens: two per weight, and
        two products of `num_heads * head_dim` per visible token."""
        return 2 * self.weights_per_layer + 4 * self.num_heads * self.head_dim * context_len


def kv_bytes_per_prompt_token(shape: ModelShape, config: SpeedConfig) -> int:
    """`Lc * c`: a prompt token is cached in the shallow band only."""
    return config.prefill_layers * shape.kv_bytes_per_layer


def kv_bytes_per_generated_token(shape: ModelShape, config: SpeedConfig) -> int:
    """`L * c`: a generated token is cached in every layer, as at full depth."""
    return config.num_layers * shape.kv_bytes_per_layer


def request_kv_bytes(shape: ModelShape, config: SpeedConfig, num_tokens: int, num_deep_tokens: int) -> int:
    """KV bytes of a request of `num_tokens` tokens, `num_deep_tokens` of them in the deep band too."""
    shallow = num_tokens * config.prefill_layers
    return (shallow + num_deep_tokens * config.num_deep_layers) * shape.kv_bytes_per_layer


def prefill_flops(
    shape: ModelShape, config: SpeedConfig, num_tokens: int, num_deep_tokens: int, prefix_len: int = 0
) -> int:
    """Operations of a prefill behind `prefix_len` cached tokens. Embedding and output head are left out: they do not
    depend on the cutoff."""

    def layer(length: int, prefix: int) -> int:
        # the sum over the tokens of layer_flops(prefix + 1 .. prefix + length)
        pairs = length * prefix + length * (length + 1) // 2
        return 2 * shape.weights_per_layer * length + 4 * shape.num_heads * shape.head_dim * pairs

    deep = config.num_deep_layers * layer(num_deep_tokens, 0)
    return config.prefill_layers * layer(num_tokens, prefix_len) + deep


def decode_flops(shape: ModelShape, config: SpeedConfig, context_len: int, batch_size: int) -> int:
    """Operations of one decode step. The few tokens that are visible in the deep layers are neglected."""
    shallow = config.prefill_layers * shape.layer_flops(context_len)
    deep = config.num_deep_layers * shape.layer_flops(0)
    return batch_size * (shallow + deep + head_flops(shape))


def head_flops(shape: ModelShape) -> int:
    """Operations of the output head for one token."""
    return 2 * shape.vocab_size * shape.hidden_size


def decode_bytes(shape: ModelShape, config: SpeedConfig, context_len: int, batch_size: int) -> int:
    """Bytes that one decode step reads: all weights once, and the KV of each request (deep rows neglected)."""
    kv = batch_size * context_len * kv_bytes_per_prompt_token(shape, config)
    return weight_bytes(shape, config) + kv


def weight_bytes(shape: ModelShape, config: SpeedConfig) -> int:
    """All layers and the output head; of the embedding only one row per token is read."""
    elements = config.num_layers * shape.weights_per_layer + shape.vocab_size * shape.hidden_size
    return shape.weight_dtype_bytes * elements


def prefill_ceiling(config: SpeedConfig) -> float:
    """`L / Lc`: how much faster prefill can become at most."""
    return config.num_layers / config.prefill_layers


def decode_ceiling(shape: ModelShape, config: SpeedConfig, context_len: int, batch_size: int) -> float:
    """How much faster a decode step can become at most where memory bandwidth bounds it."""
    return decode_bytes(shape, config.at_full_depth(), context_len, batch_size) / decode_bytes(
        shape, config, context_len, batch_size
    )


@dataclass(frozen=True)
class Rates:
    """Measured speed of a machine. flops: of a large matrix product, per second. bandwidth: bytes per second, read and
    written."""

    flops: float
    bandwidth: float


@dataclass(frozen=True)
class Extend:
    """A prefill of `new` tokens after `prefix` cached ones. deep: how many of the new ones pass all layers."""

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


def ttft_floor(shape: ModelShape, config: SpeedConfig, extend: Extend, rates: Rates) -> float:
    """Seconds that a prefill takes at least: the longer of its operations and its bytes."""
    flops = prefill_flops(shape, config, extend.new, extend.deep, extend.prefix) + head_flops(shape)
    return max(flops / rates.flops, decode_bytes(shape, config, extend.prefix, 1) / rates.bandwidth)


def step_floor(shape: ModelShape, config: SpeedConfig, context_len: int, batch_size: int, rates: Rates) -> float:
    """Seconds that a decode step takes at least: the longer of its operations and its bytes."""
    return max(
        decode_flops(shape, config, context_len, batch_size) / rates.flops,
        decode_bytes(shape, config, context_len, batch_size) / rates.bandwidth,
    )
