"""What the operator sees: /server_info, metrics, SGLang's log lines, and the checks that stop the server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sglang.srt.managers.scheduler_components.pool_stats_observer import PoolStats, SchedulerPoolStatsObserver

from sglang_speed.errors import IntegrityError
from sglang_speed.serving.admission import banded
from sglang_speed.serving.state import Served, served


@dataclass
class BandedPoolStats(PoolStats):
    """SGLang's pool statistics and the deep band's: tokens in use and capacity."""

    deep_num_used: int = 0
    deep_capacity: int = 1

    @property
    def deep_usage(self) -> float:
        return self.deep_num_used / self.deep_capacity

    def get_max_pool_usage(self) -> float:
        return max(super().get_max_pool_usage(), self.deep_usage)

    def get_prefill_usage_msg_parts(self) -> list[str]:
        return [*super().get_prefill_usage_msg_parts(), f"deep token usage: {self.deep_usage:.2f}"]

    def get_decode_usage_msg_parts(self) -> list[str]:
        deep = f"#deep token: {self.deep_num_used}, deep token usage: {self.deep_usage:.2f}"
        return [*super().get_decode_usage_msg_parts(), deep]


def add_deep_stats(stats: PoolStats, observer: SchedulerPoolStatsObserver) -> PoolStats | None:
    """Hook after SchedulerPoolStatsObserver.get_pool_stats."""
    pool = banded(observer.req_to_token_pool)
    if pool is None:
        return None
    return BandedPoolStats(**vars(stats), deep_num_used=pool.deep.num_used, deep_capacity=pool.deep.capacity)


def check_when_idle(_: Any, checker: Any) -> None:
    """Hook after SchedulerInvariantChecker._check_req_pool, which SGLang calls when it is idle and only then.

    Raises IntegrityError, which stops the server.
    """
    pool = banded(checker.req_to_token_pool)
    if pool is not None:
        pool.deep.check_idle()


def check_when_busy(_: Any, checker: Any) -> None:
    """Hook after SchedulerInvariantChecker.self_check_during_busy (SGLang's strict mode)."""
    pool = banded(checker.req_to_token_pool)
    if pool is None:
        return
    pool.deep.check_integrity()
    unknown = checker.pool_stats_observer.active_pool_idxs() - set(pool.deep.rows)
    if unknown:
        raise IntegrityError(f"deep band: requests run in rows {sorted(unknown)}, the deep band has never seen them")


def speed_state(model: Served) -> dict[str, int]:
    """The `speed` object of /server_info. Bytes are those of all tensor-parallel ranks together."""
    config, pool = model.config, model.request_pool
    pools = [model.kv_pool] if pool is None else [model.kv_pool, pool.deep_kv_pool]
    kv_pool = model.kv_pool
    bytes_per_layer = model.num_ranks * kv_pool.head_num * 2 * kv_pool.head_dim * kv_pool.store_dtype.itemsize
    return {
        "prefill_layers": config.prefill_layers,
        "num_layers": config.num_layers,
        "anchor_tokens": config.anchor_tokens,
        "tail_tokens": config.tail_tokens,
        "kv_bytes_per_prompt_token": config.prefill_layers * bytes_per_layer,
        "kv_bytes_per_prompt_token_full_depth": config.num_layers * bytes_per_layer,
        "kv_bytes_total": int(model.num_ranks * sum(sum(some.get_kv_size_bytes()) for some in pools)),
        "prompt_tokens_capacity": model.prompt_tokens,
        "deep_tokens_capacity": 0 if pool is None else pool.deep.capacity,
        "deep_tokens_used": 0 if pool is None else pool.deep.num_used,
        "deep_anchor_tokens": 0 if pool is None else pool.deep.anchors.num_slots,
    }


def report_speed_state(output: Any, scheduler: Any, recv_req: Any) -> None:
    """Hook after Scheduler.get_internal_state."""
    model = served()
    if model is not None:
        output.internal_state["speed"] = speed_state(model)


def export_speed_state(_: Any, collector: Any, stats: Any) -> None:
    """Hook after SchedulerMetricsCollector.log_stats: one Prometheus gauge per entry of the `speed` object."""
    model = served()
    if model is None:
        return
    if not hasattr(collector, "speed_gauges"):
        collector.speed_gauges = _make_gauges(collector.labels)
    for name, value in speed_state(model).items():
        collector.speed_gauges[name].labels(**collector.labels).set(value)


GAUGES = {
    "prefill_layers": "Layers that prompt tokens pass.",
    "num_layers": "Decoder layers of the model.",
    "anchor_tokens": "First prompt tokens that pass all layers.",
    "tail_tokens": "Last prompt tokens that pass all layers.",
    "kv_bytes_per_prompt_token": "KV bytes of a prompt token, all ranks.",
    "kv_bytes_per_prompt_token_full_depth": "KV bytes that a prompt token would take at full depth, all ranks.",
    "kv_bytes_total": "Bytes of both bands' KV pools, all ranks.",
    "prompt_tokens_capacity": "Tokens that the shallow band's pool holds.",
    "deep_tokens_capacity": "Tokens that the deep band's pool holds.",
    "deep_tokens_used": "Tokens in the deep band's pool, shared anchors included.",
    "deep_anchor_tokens": "Shared anchor tokens in the deep band's pool.",
}


def _make_gauges(labels: dict[str, Any]) -> dict[str, Any]:
    from prometheus_client import Gauge  # after SGLang has set PROMETHEUS_MULTIPROC_DIR

    return {
        name: Gauge(f"sglang_speed:{name}", text, labelnames=list(labels), multiprocess_mode="mostrecent")
        for name, text in GAUGES.items()
    }
