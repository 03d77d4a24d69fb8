"""How much fits and how much faster it can become: arithmetic on the sizes of a model.

Capacities are those of `kv_pool.capacity`, by which a server splits its memory; ceilings are those of `method.cost`.
Nothing here is measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from sglang_speed.config import SpeedConfig
from sglang_speed.errors import ConfigError
from sglang_speed.kv_pool.capacity import DeepTables, KVSplit, split_kv_bytes
from sglang_speed.method.bands import depth_bands
from sglang_speed.method.cost import (
    ModelShape,
    decode_ceiling,
    kv_bytes_per_prompt_token,
    state_layers,
    ttft_ceiling,
)
from sglang_speed.policies import ThinnedPolicy, policy_of

FULL_DEPTH = "full depth"


@dataclass(frozen=True)
class Setup:
    """Where a model is to run. Bytes are of one GPU; prompt_len, answer_len: tokens of each request."""

    shape: ModelShape
    num_layers: int
    kv_budget: int
    num_gpus: int
    prompt_len: int
    answer_len: int
    max_requests: int

    @property
    def total_len(self) -> int:
        """Tokens of a request at its end."""
        return self.prompt_len + self.answer_len

    @property
    def shape_on_a_gpu(self) -> ModelShape:
        """KV heads are divided between GPUs, or repeated where there are more GPUs; a latent is on each."""
        return replace(self.shape, num_kv_heads=max(1, self.shape.num_kv_heads // self.num_gpus))


@dataclass(frozen=True)
class Estimate:
    """One row of the plan.

    kv_bytes: of a prompt token in the radix tree, all GPUs' layers counted once. prompt_tokens: that the KV memory
    holds. deep_tokens: of each deep band; is_default: whether a server chooses as many by itself. requests: of the
    given length that run at once.
    ttft, tpot, tpot_full: how many times faster than full depth a cold prompt, and a decode step of one request or of
    as many as fit at full depth, can become at most. settings: of the `speed` object; None for full depth.
    """

    name: str
    settings: dict[str, Any] | None
    kv_bytes: int
    prompt_tokens: int
    deep_tokens: int
    is_default: bool
    requests: int
    ttft: float
    tpot: float
    tpot_full: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def estimates_of(setup: Setup, choices: Iterable[tuple[str, SpeedConfig]]) -> list[Estimate]:
    """Full depth first. Raises ConfigError where not even one token fits."""
    stock = SpeedConfig(setup.num_layers, setup.num_layers)
    full = _estimate(setup, FULL_DEPTH, stock, 1)
    return [full, *(_estimate(setup, name, config, max(1, full.requests)) for name, config in choices)]


def _estimate(setup: Setup, name: str, config: SpeedConfig, batch_size: int) -> Estimate:
    shape = setup.shape
    split, requests, is_default = _best_split(setup, config)
    return Estimate(
        name,
        None if config.is_stock else config.to_dict(),
        kv_bytes_per_prompt_token(shape, config),
        split.prompt_tokens,
        split.deep_tokens,
        is_default,
        requests,
        ttft_ceiling(shape, config, setup.prompt_len),
        decode_ceiling(shape, config, setup.total_len, 1),
        decode_ceiling(shape, config, setup.total_len, batch_size),
    )


def _best_split(setup: Setup, config: SpeedConfig) -> tuple[KVSplit, int, bool]:
    """The memory as a server splits it, or, where its deep bands are full first, with as many deep tokens as let most
    requests run; the requests that run at once; and whether the split is the server's own."""
    own = _split(setup, config, None)
    by_prompts = min(own.prompt_tokens // setup.total_len, setup.max_requests)
    if config.is_stock:
        return own, by_prompts, True
    slots = deep_slots(config, setup.prompt_len, setup.answer_len)
    if own.deep_tokens // slots >= by_prompts:
        return own, by_prompts, True
    for requests in range(by_prompts, own.deep_tokens // slots, -1):
        split = _split_for(setup, config, requests, slots)
        if split is not None:
            return split, requests, False
    return own, own.deep_tokens // slots, True


def _split_for(setup: Setup, config: SpeedConfig, requests: int, slots: int) -> KVSplit | None:
    """With deep bands for so many requests, if the rest of the memory holds their prompts."""
    try:
        split = _split(setup, config, requests * slots)
    except ConfigError:  # nothing is left
        return None
    return split if split.prompt_tokens >= requests * setup.total_len else None


def _split(setup: Setup, config: SpeedConfig, deep_tokens: int | None) -> KVSplit:
    local = setup.shape_on_a_gpu
    tables = DeepTables(setup.max_requests + 1, setup.max_requests, setup.total_len)
    return split_kv_bytes(
        config,
        setup.kv_budget,
        local.kv_bytes_per_layer,
        page_size=1,
        override=deep_tokens,
        tables=tables,
        state_layers=state_layers(local, config),
    )


def deep_slots(config: SpeedConfig, prompt_len: int, answer_len: int) -> int:
    """Slots that a request takes in the deep band where it takes most."""
    total = prompt_len + answer_len
    policies = [policy_of(config, band) for band in depth_bands(config)[1:]]
    if config.is_thinned:  # the others end with the prompt
        return ThinnedPolicy.of(config).deep_tokens(prompt_len).num_before(total)
    return max(policy.deep_tokens(prompt_len).num_before(total) for policy in policies)


def kv_budget_of(memory: int, mem_fraction: float, weights: int, num_gpus: int) -> int:
    """Bytes for KV on one GPU. ConfigError where the weights leave none."""
    budget = int(memory * mem_fraction - weights / num_gpus)
    if budget <= 0:
        raise ConfigError(
            f"the weights take {weights / 2**30:.1f} GiB, and {num_gpus} x {memory / 2**30:g} GiB x {mem_fraction} "
            "leave nothing for KV: give more --gpus or --memory, or name quantized weights"
        )
    return budget
