"""The queries of the dashboard that several panels have parts of.

Of SGLang's schedulers only the first rank counts, since bytes and tokens are those of all ranks together; replicas of
one server (`dp_rank`) are summed.
"""

from __future__ import annotations

from dataclasses import dataclass

SERVER = 'job=~"$job", instance=~"$instance"'
RANK = f'{SERVER}, tp_rank="0"'
RATE = "[$__rate_interval]"
THINNED, NOT_THINNED = 'band="thinned"', 'band!="thinned"'
SHALLOW, DEEP = 'band="shallow"', 'band=~"deep1?"'
"""Of several deep bands the lowest has most tokens; to count each of them as deep as the model is saves too little."""


@dataclass(frozen=True)
class Query:
    expr: str
    legend: str


def total(metric: str, labels: str = "", by: str = "instance") -> str:
    """A gauge of the schedulers."""
    return f"sum by ({by}) ({metric}{{{_and(RANK, labels)}}})"


def rate(metric: str, labels: str = "", by: str = "instance", of: str = RANK) -> str:
    return f"sum by ({by}) (rate({metric}{{{_and(of, labels)}}}{RATE}))"


def quantiles(histogram: str, of: str = SERVER) -> tuple[Query, ...]:
    buckets = rate(f"{histogram}_bucket", by="instance, le", of=of)
    return tuple(
        Query(f"histogram_quantile({share}, {buckets})", f"{share:.0%} {{{{instance}}}}") for share in (0.5, 0.95, 0.99)
    )


def _and(labels: str, more: str) -> str:
    return f"{labels}, {more}" if more else labels


PROMPTS, REUSED = "sglang_speed:prompt_tokens_total", "sglang_speed:reused_tokens_total"
CAPACITY, DEEP_CAPACITY = "sglang_speed:prompt_tokens_capacity", "sglang_speed:deep_tokens_capacity"
DEEP_USED, ANCHORS = "sglang_speed:deep_tokens_used", "sglang_speed:deep_anchor_tokens"
LAYERS, PROMPT_LAYERS = "sglang_speed:num_layers", "sglang_speed:prefill_layers"
BYTES, FULL_BYTES = "sglang_speed:kv_bytes_per_prompt_token", "sglang_speed:kv_bytes_per_prompt_token_full_depth"
USED, KEPT = "sglang:kv_used_tokens", "sglang:kv_evictable_tokens"

HIT_RATE = f"{rate(REUSED, SHALLOW)} / {rate(PROMPTS, SHALLOW)}"
COMPUTED = f"({rate(PROMPTS, SHALLOW)} - {rate(REUSED, SHALLOW)})"
COMPUTED_DEEP = f"({rate(PROMPTS, DEEP)} - {rate(REUSED, DEEP)})"
SKIPPED_LAYERS = f"(1 - max by (instance) ({PROMPT_LAYERS}{{{RANK}}}) / max by (instance) ({LAYERS}{{{RANK}}}))"
LEFT_OUT = f"(1 - {COMPUTED_DEEP} / {COMPUTED}) * {SKIPPED_LAYERS}"
"""Of the passes of computed prompt tokens through layers, the share that is left out."""
PREFILL_SECONDS = rate("sglang:per_stage_req_latency_seconds_sum", 'stage="prefill_forward"')

BYTES_AT_FULL_DEPTH = f"sum by (instance) (({USED}{{{RANK}}} + {KEPT}{{{RANK}}}) * {FULL_BYTES}{{{RANK}}})"
THINNED_BYTES = f"({total(DEEP_USED, THINNED)} or 0 * {total(CAPACITY)}) * max by (instance) ({FULL_BYTES}{{{RANK}}})"
DEEP_BYTES = f"{total(DEEP_USED, NOT_THINNED)} * max by (instance) ({FULL_BYTES}{{{RANK}}}) * {SKIPPED_LAYERS}"
BYTES_AS_SERVED = (
    f"sum by (instance) (({USED}{{{RANK}}} + {KEPT}{{{RANK}}}) * {BYTES}{{{RANK}}}) + {DEEP_BYTES} + {THINNED_BYTES}"
)
