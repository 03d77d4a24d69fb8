"""What the operator can count: the `speed` object of /server_info, and the same as Prometheus metrics.

Owns their names. `kv_pool.counters` owns the counts; the hooks here add those that SGLang alone sees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from sglang.srt.managers.schedule_batch import ScheduleBatch

from sglang_speed.kv_pool.request_pool import banded
from sglang_speed.method.bands import SHALLOW
from sglang_speed.served import ServedModel, served
from sglang_speed.serving.fields import EXPORTER

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

COUNTERS = {
    "prompt_tokens": "Prompt tokens processed by this band.",
    "reused_tokens": "Prompt tokens that came from the radix tree (shallow) or from shared anchors (deep).",
    "evicted_tokens": "Tokens evicted from the radix tree (shallow) or shared anchors (deep).",
    "retracted_requests": "Times that a request was retracted, to go on later, because the band was short.",
    "aborted_requests": "Requests aborted because the band was short and no other was left to retract.",
    "anchor_misses": "Requests whose anchors were not there, so that they could reuse nothing.",
    "refused_requests": "Requests refused because they can never fit in the band.",
    "clipped_requests": "Requests whose max_new_tokens was cut to what the band can hold.",
}
"""The band is a label of the metric and the first word of the key in /server_info."""


def speed_state(model: ServedModel) -> dict[str, int]:
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
        **counts_by_band(model),
    }


def counts_by_band(model: ServedModel) -> dict[str, int]:
    """Counts since the start, e.g. `shallow_reused_tokens`; none for the stock model, which has SGLang's own."""
    pool = model.request_pool
    if pool is None:
        return {}
    return {f"{band}_{name}": count for band, each in pool.counters.items() for name, count in asdict(each).items()}


def report_speed_state(output: Any, scheduler: Any, recv_req: Any) -> None:
    """Hook after Scheduler.get_internal_state."""
    model = served()
    if model is not None:
        output.internal_state["speed"] = speed_state(model)


def count_retractions(original: Callable[..., Any], batch: ScheduleBatch, server_args: Any) -> Any:
    """Hook around ScheduleBatch.retract_decode: count whom it sends back and whom it ends, by the band that is short.

    Where both are short, the deep band is named.
    """
    pool = banded(batch.req_to_token_pool)
    if pool is None:
        return original(batch, server_args)
    deep_is_short = not pool.deep.reclaim(len(batch.reqs))
    retracted, new_token_ratio, aborted = original(batch, server_args)
    short = pool.counters[pool.deep.name if deep_is_short else SHALLOW]
    short.retracted_requests += len(retracted)
    short.aborted_requests += len(aborted)
    return retracted, new_token_ratio, aborted


def count_evictions(_: Any, tree: Any, num_evicted: int, start_time: float) -> None:
    """Hook after BasePrefixCache.update_eviction_metrics, which every radix tree calls when it has evicted."""
    pool = banded(tree.req_to_token_pool)
    if pool is not None:
        pool.counters[SHALLOW].evicted_tokens += num_evicted


def export_speed_state(_: Any, collector: Any, stats: Any) -> None:
    """Hook after SchedulerMetricsCollector.log_stats, at SGLang's own rate."""
    model = served()
    if model is None:
        return
    if EXPORTER.get(collector, None) is None:
        EXPORTER.set(collector, _Exporter(collector.labels))
    EXPORTER.get(collector, None).export(model)


class _Exporter:
    """Prometheus metrics of one scheduler: a gauge per fact, a counter with the label `band` per count."""

    def __init__(self, labels: dict[str, Any]) -> None:
        from prometheus_client import Counter, Gauge  # after SGLang has set PROMETHEUS_MULTIPROC_DIR

        self._labels = labels
        self._exported: dict[str, int] = {}
        self._gauges = {
            name: Gauge(f"sglang_speed:{name}", text, labelnames=list(labels), multiprocess_mode="mostrecent")
            for name, text in GAUGES.items()
        }
        self._counters = {
            name: Counter(f"sglang_speed:{name}", text, labelnames=[*labels, "band"]) for name, text in COUNTERS.items()
        }

    def export(self, model: ServedModel) -> None:
        state = speed_state(model)
        for name, gauge in self._gauges.items():
            gauge.labels(**self._labels).set(state[name])
        for key, count in counts_by_band(model).items():
            band, _, name = key.partition("_")
            self._counters[name].labels(**self._labels, band=band).inc(count - self._exported.get(key, 0))
            self._exported[key] = count
