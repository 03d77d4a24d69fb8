"""How KV memory is split between the two bands.

The shallow band's pool holds every token, the deep band's pool only deep tokens, so a small share of the
bytes serves it. The share is a promise: 94% of the ideal `L / Lc` gain stays with prompt tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from sglang_speed.config import SpeedConfig
from sglang_speed.errors import ConfigError

DEEP_PERCENT = 6
DEEP_TOKENS_VARIABLE = "SGLANG_SPEED_DEEP_TOKENS"


@dataclass(frozen=True)
class KVSplit:
    """Token capacities of the two bands. Bytes: `(prompt_tokens * Lc + deep_tokens * (L - Lc)) * c`."""

    prompt_tokens: int
    deep_tokens: int


def deep_tokens_beside(config: SpeedConfig, prompt_tokens: int, override: int | None = None) -> int:
    """Deep tokens that go with a shallow pool of `prompt_tokens`.

    The shallow pool's bytes `S*Lc` are 94 parts of 100, the deep pool's `D*(L-Lc)` the other 6.
    """
    if config.is_stock:
        return 0
    if override is not None:
        return override
    return prompt_tokens * config.prefill_layers * DEEP_PERCENT // (config.num_deep_layers * (100 - DEEP_PERCENT))


def split_kv_bytes(
    config: SpeedConfig, budget_bytes: int, bytes_per_layer: int, page_size: int, override: int | None = None
) -> KVSplit:
    """Split a KV budget between the bands.

    budget_bytes: bytes for both pools.
    bytes_per_layer: KV bytes of one token in one layer on this device, `c`.
    page_size: the shallow pool is a whole number of pages.
    """
    deep_cell = config.num_deep_layers * bytes_per_layer
    shallow_cell = config.prefill_layers * bytes_per_layer
    if config.is_stock:
        deep_bytes = 0
    elif override is not None:
        deep_bytes = override * deep_cell
    else:
        deep_bytes = -(-budget_bytes * DEEP_PERCENT // 100)
    prompt_tokens = (budget_bytes - deep_bytes) // shallow_cell // page_size * page_size
    if prompt_tokens <= 0:
        raise ConfigError(
            f"{DEEP_TOKENS_VARIABLE}={override} deep tokens take {deep_bytes} of the {budget_bytes} bytes for KV, "
            "which leaves no prompt tokens; lower it or raise --mem-fraction-static"
        )
    return KVSplit(prompt_tokens, deep_tokens_beside(config, prompt_tokens, override))


def cap_deep_tokens(config: SpeedConfig, deep_tokens: int, max_requests: int, context_len: int) -> int:
    """Never more than the running requests can fill, never less than one request needs.

    Raises ConfigError where not even one prompt's deep tokens and one generated token fit.
    """
    if config.is_stock:
        return 0
    deep_tokens = min(deep_tokens, max_requests * context_len)
    needed = config.anchor_tokens + config.tail_tokens + 1
    if deep_tokens < needed:
        raise ConfigError(
            f"the deep band has room for {deep_tokens} tokens, but one request needs {needed} (anchor_tokens="
            f"{config.anchor_tokens} + tail_tokens={config.tail_tokens} + 1 generated); set {DEEP_TOKENS_VARIABLE} to "
            "at least that, or give the KV cache more memory (--mem-fraction-static, --max-total-tokens)"
        )
    return deep_tokens
