"""Which SPEED model this process serves: the one place that knows.

`speed_of` reads it from a configuration, in any process. `served` and `active_pool` know the pools of a scheduler
process, for hooks that SGLang gives no way to the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sglang_speed.config import SpeedConfig

if TYPE_CHECKING:
    from sglang.srt.mem_cache.memory_pool import KVCache

    from sglang_speed.kv_pool.deep_band import DeepBand
    from sglang_speed.kv_pool.request_pool import BandedReqToTokenPool


@dataclass(frozen=True)
class ServedModel:
    """A SPEED model and its memory.

    kv_pool: the shallow band's pool, `prompt_tokens` large, on this rank; each of `num_ranks` ranks has one.
    request_pool: the request table with the deep bands; None where the checkpoint is the stock model.
    weights: the module that has them. model_config: as SGLang has read it.
    """

    config: SpeedConfig
    kv_pool: KVCache
    prompt_tokens: int
    num_ranks: int
    request_pool: BandedReqToTokenPool | None
    weights: Any = None
    model_config: Any = None

    @property
    def deep_bands(self) -> tuple[DeepBand, ...]:
        return () if self.request_pool is None else self.request_pool.deep_bands


_served: list[ServedModel] = []


def speed_of(hf_config: Any) -> SpeedConfig | None:
    """The bands that a model's configuration names, None for any other model."""
    speed = getattr(hf_config, "speed", None)
    if not isinstance(speed, Mapping):
        return None
    return SpeedConfig.from_dict(speed, hf_config.get_text_config().num_hidden_layers)


def serve(model: ServedModel) -> None:
    """Called once in a scheduler process, when the pools are built."""
    assert not _served, f"this process serves a model of {_served[0].config} already"
    _served.append(model)


def end_serving() -> None:
    """For a process that outlives its scheduler, as tests do."""
    _served.clear()


def served() -> ServedModel | None:
    return _served[0] if _served else None


def active_pool() -> BandedReqToTokenPool | None:
    """The request pool with deep bands, or None where the model at hand has none."""
    return _served[0].request_pool if _served else None
