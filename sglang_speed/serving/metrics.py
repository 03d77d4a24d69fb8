"""What the operator can count: the `speed` object of /server_info, and the same as Prometheus metrics.

Owns their names. `kv_pool.counters` owns the counts; the hooks here add those that SGLang alone sees.
"""

from __future__ import annotations

from collections import Counter as Counted
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from sglang.srt.managers.schedule_batch import ScheduleBatch

from sglang_speed.host.adapter import HOST
from sglang_speed.kv_pool.request_pool import banded
from sglang_speed.method.bands import DEEP, SHALLOW
from sglang_speed.served import ServedModel, served
from sglang_speed.serving.fields import EXPORTER

GAUGES = {
    "prefill_layers": "Layers that prompt tokens pass.",
    "num_layers": "Decoder layers of the model.",
    "anchor_tokens": "First prompt tokens that pass all layers.",
    "tail_tokens": "Last prompt tokens that pass all layers.",
    "kv_bytes_per_prompt_token": "Bytes that the radix tree keeps of a prompt token, all ranks: KV, and its state.",
    "state_bytes_per_token": "Bytes of the hidden state that is kept of every token, all ranks; 0 where none is.",
    "kv_bytes_per_prompt_token_full_depth": "KV bytes that a prompt token would take at full depth, all ranks.",
    "kv_bytes_read_per_prompt_token": "KV bytes of a prompt token that a decode step reads, on average, all ranks.",
    "kv_bytes_total": "Bytes of all bands' KV pools, all ranks.",
    "prompt_tokens_capacity": "Tokens that the shallow band's pool holds.",
}

DEEP_GAUGES = {
    "tokens_capacity": "Tokens that a deep band's pool holds.",
    "tokens_used": "Tokens in a deep band's pool, shared anchors included.",
    "anchor_tokens": "Shared anchor tokens in a deep band's pool.",
}

COUNTERS = {
    "prompt_tokens": "Prompt tokens processed by this band.",
    "reused_tokens": "Prompt tokens that came from the radix tree (shallow) or from shared anchors (deep).",
    "evicted_tokens": "Tokens evicted from the radix tree (shallow) or shared anchors (deep).",
    "retracted_requests": "Times that a request was retracted, to go on later, because the band was short.",
    "aborted_requests": "Requests aborted because the band was short and no other was left to retract.",
    "selected_tokens": "Prompt tokens that attention scores chose for the band.",
    "filled_tokens": "Prompt tokens that are visible in the band with keys and values that are filled in.",
    "anchor_misses": "Requests whose anchors were not there, so that they computed their own.",
    "refused_requests": "Requests refused because they can never fit in the band.",
    "clipped_requests": "Requests whose max_new_tokens was cut to what the band can hold.",
}
"""In both, the band is a label of the metric and the first word of the key in /server_info."""

ByBand = dict[str, dict[str, int]]
"""Numbers by the name of a band, then by their own."""


def speed_state(model: ServedModel) -> dict[str, Any]:
    """The `speed` object of /server_info. Bytes are those of all tensor-parallel ranks together."""
    told = {"policy": model.config.policy, "config": model.config.to_dict()}
    facts, by_band = {**told, **facts_of(model)}, (deep_gauges(model), counts_of(model))
    return {**facts, **{f"{band}_{name}": value for some in by_band for band, name, value in _each(some)}}


def facts_of(model: ServedModel) -> dict[str, int]:
    """The values of GAUGES."""
    config, kv_pool = model.config, model.kv_pool
    pools = [kv_pool, *(band.allocator.get_kvcache() for band in model.deep_bands)]
    num_slots = kv_pool.size + kv_pool.page_size  # the first page is padding
    bytes_per_layer = model.num_ranks * _bytes_of(kv_pool) // (num_slots * kv_pool.layer_num)
    num_state_layers = kv_pool.layer_num - config.prefill_layers
    return {
        "prefill_layers": config.prefill_layers,
        "num_layers": config.num_layers,
        "anchor_tokens": config.anchor_tokens,
        "tail_tokens": config.tail_tokens,
        "kv_bytes_per_prompt_token": (config.stored_layers + num_state_layers) * bytes_per_layer,
        "state_bytes_per_token": num_state_layers * bytes_per_layer,
        "kv_bytes_per_prompt_token_full_depth": config.num_layers * bytes_per_layer,
        "kv_bytes_read_per_prompt_token": round(config.read_layers * bytes_per_layer),
        "kv_bytes_total": model.num_ranks * sum(map(_bytes_of, pools)),
        "prompt_tokens_capacity": model.prompt_tokens,
    }


def _bytes_of(kv_pool: Any) -> int:
    """Of keys and values, or of the latents that stand for both."""
    sizes = kv_pool.get_kv_size_bytes()
    return int(sum(sizes)) if isinstance(sizes, tuple) else int(sizes)


def deep_gauges(model: ServedModel) -> ByBand:
    """The values of DEEP_GAUGES; none for the stock model."""
    return {
        band.name: {
            "tokens_capacity": band.capacity,
            "tokens_used": band.num_used,
            "anchor_tokens": band.anchors.num_slots,
        }
        for band in model.deep_bands
    }


def counts_of(model: ServedModel) -> ByBand:
    """The values of COUNTERS since the start; none for the stock model, which has SGLang's own."""
    pool = model.request_pool
    return {} if pool is None else {band: asdict(each) for band, each in pool.counters.items()}


def report_speed_state(output: Any, scheduler: Any, recv_req: Any) -> None:
    """Hook after Scheduler.get_internal_state; replicas answer in any order, so each says which it is."""
    model = served()
    if model is None:
        return
    output.internal_state["speed"] = speed_state(model)
    replica = HOST.replica_of(scheduler)
    if replica is not None:
        output.internal_state["speed"]["dp_rank"] = replica


def count_retractions(original: Callable[..., Any], batch: ScheduleBatch, *args: Any) -> Any:
    """Hook around ScheduleBatch.retract_decode: count whom it sends back and whom it ends, by the band that is short.

    Where several are short, the lowest deep band among them is named.
    """
    pool = banded(batch.req_to_token_pool)
    if pool is None:
        return original(batch, *args)
    short = next(
        (band.name for band in pool.growing_bands if not band.reclaim(pool.num_missing(band, batch.reqs))), SHALLOW
    )
    retracted, new_token_ratio, aborted = original(batch, *args)
    pool.counters[short].retracted_requests += len(retracted)
    pool.counters[short].aborted_requests += len(aborted)
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

        def gauge(name: str, text: str, labels: list[str]) -> Gauge:
            return Gauge(f"sglang_speed:{name}", text, labelnames=labels, multiprocess_mode="mostrecent")

        self._labels = labels
        self._exported: Counted[tuple[str, str]] = Counted()
        self._gauges = {name: gauge(name, text, [*labels]) for name, text in GAUGES.items()}
        self._deep_gauges = {
            name: gauge(f"{DEEP}_{name}", text, [*labels, "band"]) for name, text in DEEP_GAUGES.items()
        }
        self._counters = {
            name: Counter(f"sglang_speed:{name}", text, labelnames=[*labels, "band"]) for name, text in COUNTERS.items()
        }

    def export(self, model: ServedModel) -> None:
        for name, value in facts_of(model).items():
            self._gauges[name].labels(**self._labels).set(value)
        for band, name, value in _each(deep_gauges(model)):
            self._deep_gauges[name].labels(**self._labels, band=band).set(value)
        for band, name, count in _each(counts_of(model)):
            self._counters[name].labels(**self._labels, band=band).inc(count - self._exported[band, name])
            self._exported[band, name] = count


def _each(numbers: ByBand) -> Iterator[tuple[str, str, int]]:
    """Band, name and value of every number."""
    for band, values in numbers.items():
        for name, value in values.items():
            yield band, name, value
