"""What a token costs in each band, in bytes and in floating-point operations, and the floors and ceilings that follow.

The only cost model. A floor is a time that no server beats on a machine of given rates; a ceiling is a ratio of two
floors, the most that can be gained. A measurement is printed beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sglang_speed.config import SpeedConfig


@dataclass(frozen=True)
class Experts:
    """The MLP of a layer with experts: `per_token` of `count` run for a token, and `shared` ones for every token.

    Of `intermediate_size` each; shared_size: of the shared ones together.
    """

    count: int
    per_token: int
    intermediate_size: int
    shared_size: int = 0


@dataclass(frozen=True)
class Latent:
    """Multi-head latent attention: what is cached of a token, and the ranks and head sizes around it.

    query_rank: of the queries' own compression, 0 where they have none.
    """

    kv_rank: int
    rope_dim: int
    query_rank: int
    nope_dim: int
    value_dim: int


@dataclass(frozen=True)
class Window:
    """size: tokens that a row sees in layers with a sliding window. share: of all layers, those that have one."""

    size: int
    share: float


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a decoder whose layers are alike.

    They are taken to be so where a few are not: the first layers of some models with experts are dense.

    kv_dtype_bytes, weight_dtype_bytes: bytes per element of the KV cache and of the weights, on average.
    is_gated: whether the MLP has three matrices instead of two.
    """

    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    kv_dtype_bytes: int = 2
    weight_dtype_bytes: float = 2
    experts: Experts | None = None
    latent: Latent | None = None
    window: Window | None = None
    is_gated: bool = True

    @classmethod
    def from_dict(cls, sizes: Mapping[str, Any]) -> ModelShape:
        """The shape that `dataclasses.asdict` wrote into a results file."""
        parts = {"experts": Experts, "latent": Latent, "window": Window}
        return cls(
            **{name: parts[name](**value) if value and name in parts else value for name, value in sizes.items()}
        )

    @property
    def kv_bytes_per_layer(self) -> int:
        """Bytes of keys and values, or of the latent, of one token in one layer, `c`."""
        if self.latent is not None:
            return (self.latent.kv_rank + self.latent.rope_dim) * self.kv_dtype_bytes
        return 2 * self.num_kv_heads * self.head_dim * self.kv_dtype_bytes

    @property
    def weights_per_layer(self) -> int:
        """Elements of one decoder layer's matrices that a token is multiplied with."""
        return self.weights_read_per_layer(1)

    @property
    def stored_weights_per_layer(self) -> int:
        """Elements of one decoder layer's matrices, all experts included."""
        return self._attention_weights + self._mlp_weights(self.experts.count if self.experts else 0)

    def weights_read_per_layer(self, num_tokens: int) -> int:
        """Elements that a step of so many tokens reads: of the experts those that are chosen, each token on its own."""
        if self.experts is None:
            return self.stored_weights_per_layer
        count, per_token = self.experts.count, self.experts.per_token
        return self._attention_weights + self._mlp_weights(count * (1 - (1 - per_token / count) ** num_tokens))

    @property
    def _attention_weights(self) -> int:
        if self.latent is None:
            q_and_o = 2 * self.hidden_size * self.num_heads * self.head_dim
            return q_and_o + 2 * self.hidden_size * self.num_kv_heads * self.head_dim
        latent = self.latent
        query_from = latent.query_rank or self.hidden_size
        query = self.hidden_size * latent.query_rank + query_from * self.num_heads * (latent.nope_dim + latent.rope_dim)
        keys_and_values = self.hidden_size * (latent.kv_rank + latent.rope_dim)
        keys_and_values += latent.kv_rank * self.num_heads * (latent.nope_dim + latent.value_dim)
        return query + keys_and_values + self.num_heads * latent.value_dim * self.hidden_size

    def _mlp_weights(self, num_experts: float) -> int:
        per_channel = (3 if self.is_gated else 2) * self.hidden_size
        if self.experts is None:
            return per_channel * self.intermediate_size
        router = self.hidden_size * self.experts.count
        return router + round(per_channel * (num_experts * self.experts.intermediate_size + self.experts.shared_size))

    @property
    def filled_weights(self) -> int:
        """Elements that a token is multiplied with to fill in its keys and values in one layer, or its latent."""
        if self.latent is not None:
            return self.hidden_size * (self.latent.kv_rank + self.latent.rope_dim)
        return 2 * self.hidden_size * self.num_kv_heads * self.head_dim

    def pair_flops(self, num_pairs: float, num_pairs_in_window: float) -> int:
        """Operations of attention in one layer: two products of a head for every pair of a row and what it sees."""
        per_pair = 4 * self.num_heads * self.head_dim
        if self.latent is not None:
            per_pair = 2 * self.num_heads * (self.latent.nope_dim + self.latent.rope_dim + self.latent.value_dim)
        if self.window is not None:
            num_pairs = self.window.share * num_pairs_in_window + (1 - self.window.share) * num_pairs
        return round(per_pair * num_pairs)

    def seen(self, context_len: int) -> int:
        """Of `context_len` tokens those that a row sees in a layer with a window."""
        return context_len if self.window is None else min(context_len, self.window.size)

    def layer_flops(self, context_len: int) -> int:
        """Operations of one token in one layer behind `context_len - 1` others: two per weight, and attention."""
        return 2 * self.weights_per_layer + self.pair_flops(context_len, self.seen(context_len))


def state_layers(shape: ModelShape, config: SpeedConfig) -> int:
    """As many layers of KV as the state of a token takes where it is kept, `s = ceil(hidden_size / numbers of KV)`."""
    return -(-shape.hidden_size * shape.kv_dtype_bytes // shape.kv_bytes_per_layer) if config.keeps_states else 0


def kept_layers(shape: ModelShape, config: SpeedConfig) -> int:
    """As many layers' worth of KV of a prompt token as the radix tree keeps: `Lc`, or `L` where its deep KV is filled
    in, and `s` more for its state where it is kept."""
    return config.stored_layers + state_layers(shape, config)


def kv_bytes_per_prompt_token(shape: ModelShape, config: SpeedConfig) -> int:
    """What the radix tree keeps of a prompt token."""
    return kept_layers(shape, config) * shape.kv_bytes_per_layer


def kv_bytes_per_generated_token(shape: ModelShape, config: SpeedConfig) -> int:
    """`L * c`: a generated token is cached in every layer, as at full depth, and has a state like any other. Where deep
    KV is filled in, its deep layers have that beside its own, since what the tree keeps must not depend on who
    generated it; where contexts are thinned all layers do, and SGLang's slot of it stays empty."""
    beside = config.num_layers if config.is_thinned else config.num_deep_layers
    return kv_bytes_per_prompt_token(shape, config) + beside * shape.kv_bytes_per_layer


def request_kv_bytes(shape: ModelShape, config: SpeedConfig, num_tokens: int, num_deep_tokens: int) -> int:
    """KV bytes of a request of `num_tokens` tokens, `num_deep_tokens` of them computed in the deep band."""
    deep = num_deep_tokens * config.num_deep_layers * shape.kv_bytes_per_layer
    return num_tokens * kv_bytes_per_prompt_token(shape, config) + deep


def prefill_flops(
    shape: ModelShape, config: SpeedConfig, num_tokens: int, num_deep_tokens: int, prefix_len: int = 0
) -> int:
    """Operations of a prefill behind `prefix_len` cached tokens. Embedding and output head are left out: they do not
    depend on the cutoff. Where KV is filled in, deep rows see all tokens, and are the last ones."""

    def layer(length: int, prefix: int) -> int:
        # the sum over the tokens of layer_flops(prefix + 1 .. prefix + length)
        pairs = _sum_of_min(prefix, length, prefix + length)
        in_window = pairs if shape.window is None else _sum_of_min(prefix, length, shape.window.size)
        return 2 * shape.weights_per_layer * length + shape.pair_flops(pairs, in_window)

    shallow = config.prefill_layers * layer(num_tokens, prefix_len)
    if not config.fills_deep_layers:
        return shallow + config.num_deep_layers * layer(num_deep_tokens, 0)
    filled = 2 * shape.filled_weights * num_tokens
    seen = prefix_len + num_tokens - num_deep_tokens
    return shallow + config.num_deep_layers * (filled + layer(num_deep_tokens, seen))


def _sum_of_min(prefix: int, length: int, most: int) -> int:
    """min(n, most) summed over n from prefix + 1 to prefix + length."""
    grows = max(0, min(length, most - prefix))
    return grows * prefix + grows * (grows + 1) // 2 + (length - grows) * most


def decode_flops(shape: ModelShape, config: SpeedConfig, context_len: int, batch_size: int) -> int:
    """Operations of one decode step. Where only anchors and tail are visible in the deep layers, they are neglected."""
    if config.is_thinned and config.selection is not None:
        kept = round(config.selection.kept * context_len)
        return batch_size * (config.num_layers * shape.layer_flops(kept) + head_flops(shape))
    shallow = config.prefill_layers * shape.layer_flops(context_len)
    visible = context_len if config.fills_deep_layers else round(config.selected_share * context_len)
    deep = config.num_deep_layers * shape.layer_flops(visible)
    filled = config.num_deep_layers * 2 * shape.filled_weights if config.fills_deep_layers else 0
    return batch_size * (shallow + deep + filled + head_flops(shape))


def head_flops(shape: ModelShape) -> int:
    """Operations of the output head for one token."""
    return 2 * shape.vocab_size * shape.hidden_size


def decode_bytes(shape: ModelShape, config: SpeedConfig, context_len: int, batch_size: int) -> int:
    """Bytes that one decode step reads: weights once, and the KV that each request sees; of the deep layers what is
    filled in or selected."""
    share = 0.0 if shape.window is None else shape.window.share
    seen = share * shape.seen(context_len) + (1 - share) * context_len
    kv = round(batch_size * seen * config.read_layers * shape.kv_bytes_per_layer)
    return _bytes_of(shape, config, shape.weights_read_per_layer(batch_size)) + kv


def weight_bytes(shape: ModelShape, config: SpeedConfig) -> int:
    """All layers and the output head; of the embedding only one row per token is read."""
    return _bytes_of(shape, config, shape.stored_weights_per_layer)


def _bytes_of(shape: ModelShape, config: SpeedConfig, weights_per_layer: int) -> int:
    return round(
        shape.weight_dtype_bytes * (config.num_layers * weights_per_layer + shape.vocab_size * shape.hidden_size)
    )


def prefill_ceiling(shape: ModelShape, config: SpeedConfig) -> float:
    """`L / (Lc + f (L - Lc))`: how much faster prefill can become at most, attention aside. `f` is the share of a
    layer's work that is done for a prompt token above the cutoff: 0, that of keys and values where they are filled in,
    that of selected tokens where tokens are selected."""
    share = config.selected_share
    if config.fills_deep_layers:
        share = shape.filled_weights / shape.weights_per_layer
    return config.num_layers / (config.prefill_layers + share * config.num_deep_layers)


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
    token where there is no deep band or hits bring states. Selected tokens are computed again for each request."""
    if config.is_stock:
        prefix = min(cached_len, prompt_len - 1)
        return Extend(prompt_len - prefix, prompt_len - prefix, prefix)
    tail = min(config.tail_tokens, prompt_len)
    least = tail if config.selection is None else min(config.selection.window, prompt_len)
    prefix = min(cached_len, prompt_len - least)
    return Extend(prompt_len - prefix, max(tail, int(config.selected_share * prompt_len)), prefix)


def ttft_ceiling(shape: ModelShape, config: SpeedConfig, prompt_len: int) -> float:
    """How much faster a cold prompt of so many tokens can become at most, by its operations."""
    cold = extend_of(config, prompt_len)
    full_depth = prefill_flops(shape, config.at_full_depth(), prompt_len, prompt_len) + head_flops(shape)
    return full_depth / (prefill_flops(shape, config, cold.new, cold.deep) + head_flops(shape))


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
