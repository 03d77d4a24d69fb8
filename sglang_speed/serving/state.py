"""The one SPEED model that this process serves, for hooks whose arguments do not lead to it."""

from __future__ import annotations

from dataclasses import dataclass

from sglang.srt.mem_cache.memory_pool import KVCache

from sglang_speed.config import SpeedConfig
from sglang_speed.kv_pool.request_pool import BandedReqToTokenPool


@dataclass(frozen=True)
class Served:
    """A served SPEED model and its memory.

    kv_pool: the shallow band's pool, `prompt_tokens` large, on this rank; `num_ranks` ranks hold the like.
    request_pool: the request table with the deep band; None where the checkpoint is the stock model.
    """

    config: SpeedConfig
    kv_pool: KVCache
    prompt_tokens: int
    num_ranks: int
    request_pool: BandedReqToTokenPool | None


_served: list[Served] = []


def set_served(model: Served | None) -> None:
    """Called when the pools are built; None where the model is not a SPEED checkpoint."""
    _served[:] = [] if model is None else [model]


def served() -> Served | None:
    return _served[0] if _served else None


def active_pool() -> BandedReqToTokenPool | None:
    """The request pool with a deep band, or None where the model at hand has none."""
    return _served[0].request_pool if _served else None
