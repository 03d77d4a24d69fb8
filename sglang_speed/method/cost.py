"""What a token costs in each band, in bytes and in floating-point operations, and the ceilings that follow.

A ceiling is what the arithmetic allows at most; a measurement is printed beside it, never above it.
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


def prefill_flops(shape: ModelShape, config: SpeedConfig, num_tokens: int, num_deep_tokens: int) -> int:
    """Operations of a cold prefill, embedding and output head left out (they do not depend on the cutoff)."""

    def band(num_layers: int, length: int) -> int:
        # sum over the tokens of layer_flops(1 .. length)
        linear = 2 * shape.weights_per_layer * length
        attention = 4 * shape.num_heads * shape.head_dim * (length * (length + 1) // 2)
        return num_layers * (linear + attention)

    return band(config.prefill_layers, num_tokens) + band(config.num_deep_layers, num_deep_tokens)


def prefill_ceiling(config: SpeedConfig) -> float:
    """`L / Lc`: how much faster prefill can become at most."""
    return config.num_layers / config.prefill_layers


def decode_ceiling(shape: ModelShape, config: SpeedConfig, context_len: int, batch_size: int) -> float:
    """How much faster a decode step can become at most where memory bandwidth bounds it.

    Full depth reads the weights and `B * n * L * c` of KV; here `L` becomes `Lc` (deep rows neglected).
    """
    weights = shape.weight_dtype_bytes * (
        config.num_layers * shape.weights_per_layer + shape.vocab_size * shape.hidden_size
    )
    kv = batch_size * context_len * shape.kv_bytes_per_layer
    return (weights + kv * config.num_layers) / (weights + kv * config.prefill_layers)
