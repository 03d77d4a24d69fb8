"""What the dashboard shows: rows of panels, each with its queries."""

from __future__ import annotations

from dataclasses import dataclass

from deploy.grafana.queries import (
    ANCHORS,
    BYTES,
    BYTES_AS_SERVED,
    BYTES_AT_FULL_DEPTH,
    CAPACITY,
    COMPUTED,
    COMPUTED_DEEP,
    DEEP_CAPACITY,
    DEEP_USED,
    FULL_BYTES,
    HIT_RATE,
    KEPT,
    LAYERS,
    LEFT_OUT,
    PREFILL_SECONDS,
    PROMPT_LAYERS,
    PROMPTS,
    RANK,
    RATE,
    REUSED,
    SERVER,
    SHALLOW,
    USED,
    Query,
    quantiles,
    rate,
    total,
)


@dataclass(frozen=True)
class Panel:
    """unit: Grafana's name. width: of 24. is_stat: the newest number in large, no lines. most: end of the axis."""

    title: str
    unit: str
    description: str
    queries: tuple[Query, ...]
    width: int = 8
    is_stat: bool = False
    most: float | None = None


NOW = (
    Panel("Servers that answer", "none", "", (Query(f"sum(up{{{SERVER}}})", "servers"),), 3, True),
    Panel(
        "Layers: prompt, model",
        "none",
        "Layers that prompt tokens pass, and those that the model has.",
        (Query(f"max({PROMPT_LAYERS}{{{RANK}}})", "prompt"), Query(f"max({LAYERS}{{{RANK}}})", "model")),
        5,
        True,
    ),
    Panel(
        "KV of a prompt token",
        "percentunit",
        "What the radix tree keeps of a prompt token, against full depth.",
        (Query(f"avg({BYTES}{{{RANK}}} / {FULL_BYTES}{{{RANK}}})", "of full depth"),),
        4,
        True,
    ),
    Panel(
        "Prompt tokens in the KV memory",
        "suffix:x",
        "How many times as many as at full depth, with the deep band in the same bytes.",
        (
            Query(
                f"avg({CAPACITY}{{{RANK}}} * {FULL_BYTES}{{{RANK}}} / sglang_speed:kv_bytes_total{{{RANK}}})",
                "full depth",
            ),
        ),
        4,
        True,
    ),
    Panel(
        "Hit rate",
        "percentunit",
        "Prompt tokens that came from the radix tree.",
        (
            Query(
                f"sum(rate({REUSED}{{{RANK}, {SHALLOW}}}{RATE})) / sum(rate({PROMPTS}{{{RANK}, {SHALLOW}}}{RATE}))",
                "hits",
            ),
        ),
        3,
        True,
    ),
    Panel(
        "Requests: running, waiting",
        "none",
        "",
        (
            Query(f"sum(sglang:num_running_reqs{{{RANK}}})", "running"),
            Query(f"sum(sglang:num_queue_reqs{{{RANK}}})", "waiting"),
        ),
        5,
        True,
    ),
)

BANDS = (
    Panel(
        "Shallow band",
        "percentunit",
        "Tokens of running requests, and those that only the radix tree keeps, of all that fit. Full is as it should "
        "be: what is kept gives way. Running requests alone near 100%: others wait.",
        (
            Query(f"{total(USED)} / {total(CAPACITY)}", "running {{instance}}"),
            Query(f"{total(KEPT)} / {total(CAPACITY)}", "kept {{instance}}"),
        ),
        most=1,
    ),
    Panel(
        "Deep bands",
        "percentunit",
        "Generated tokens, tails and selected tokens of running requests, and shared anchors, of all that fit. Anchors "
        "that nobody uses give way. Near 100% without them: raise SGLANG_SPEED_DEEP_TOKENS.",
        (
            Query(
                f"({total(DEEP_USED, by='instance, band')} - {total(ANCHORS, by='instance, band')}) "
                f"/ {total(DEEP_CAPACITY, by='instance, band')}",
                "{{band}} running {{instance}}",
            ),
            Query(
                f"{total(ANCHORS, by='instance, band')} / {total(DEEP_CAPACITY, by='instance, band')}",
                "{{band}} anchors {{instance}}",
            ),
        ),
        most=1,
    ),
    Panel(
        "Evicted tokens",
        "cps",
        "A second, from the radix tree (shallow) and from the shared anchors (deep). Much in the shallow band: the "
        "working set is larger than the tree.",
        (Query(rate("sglang_speed:evicted_tokens_total", by="instance, band"), "{{band}} {{instance}}"),),
    ),
)

REUSE = (
    Panel(
        "Hit rate",
        "percentunit",
        "Prompt tokens that came from the radix tree. The tail of a prompt never does.",
        (Query(HIT_RATE, "{{instance}}"),),
        most=1,
    ),
    Panel(
        "Requests without their anchors",
        "percentunit",
        "They reuse nothing. Near 100%: prompts begin with many different tokens, or each is new.",
        (
            Query(
                f"{rate('sglang_speed:anchor_misses_total')} / {rate('sglang:num_requests_total', of=SERVER)}",
                "{{instance}}",
            ),
        ),
        most=1,
    ),
    Panel(
        "Prompt tokens",
        "cps",
        "A second: from the radix tree, computed in the lower layers, and those of these that passed the upper too.",
        (
            Query(rate(REUSED, SHALLOW), "reused {{instance}}"),
            Query(COMPUTED, "computed {{instance}}"),
            Query(COMPUTED_DEEP, "computed deep {{instance}}"),
        ),
    ),
)

SAVINGS = (
    Panel(
        "KV bytes held",
        "bytes",
        "Of all tokens that the server holds now, as served, and what they would take at full depth. Of the deep bands "
        "what is used counts, not what is reserved.",
        (
            Query(BYTES_AS_SERVED, "as served {{instance}}"),
            Query(BYTES_AT_FULL_DEPTH, "at full depth {{instance}}"),
            Query(f"{BYTES_AT_FULL_DEPTH} - ({BYTES_AS_SERVED})", "saved {{instance}}"),
        ),
    ),
    Panel(
        "Work of prompts that is left out",
        "percentunit",
        "Of the passes of computed prompt tokens through layers. A little less with pop, which fills in keys and "
        "values, and at least so much with several cutoffs.",
        (Query(LEFT_OUT, "{{instance}}"),),
        most=1,
    ),
    Panel(
        "Seconds of prefill",
        "s",
        "That requests spent in it, for each second, and by estimate those they were spared: as if all layers took the "
        "same time, and nothing else took any.",
        (
            Query(PREFILL_SECONDS, "spent {{instance}}"),
            Query(f"{PREFILL_SECONDS} * {LEFT_OUT} / (1 - {LEFT_OUT})", "saved {{instance}}"),
        ),
    ),
)

REFUSALS = (
    Panel(
        "Requests for which a band was too small",
        "none",
        "Refused: can never fit, status 400. Clipped: may generate less than asked. Retracted: go on later. Aborted: "
        "ended with an error.",
        tuple(
            Query(
                f"sum by (instance, band) (increase(sglang_speed:{kind}_requests_total{{{RANK}}}{RATE}))",
                f"{kind} {{{{band}}}} {{{{instance}}}}",
            )
            for kind in ("refused", "clipped", "retracted", "aborted")
        ),
        12,
    ),
    Panel(
        "Answers by status",
        "reqps",
        "Without health checks. 400 is what SGLang or this package refuses.",
        (
            Query(
                rate("sglang:http_responses_total", 'endpoint!~"/health.*"', by="instance, status_code", of=SERVER),
                "{{status_code}} {{instance}}",
            ),
        ),
        12,
    ),
)

LATENCY = (
    Panel("Time to first token", "s", "With the time in the queue.", quantiles("sglang:time_to_first_token_seconds")),
    Panel(
        "Time per output token",
        "s",
        "Between two tokens of a stream, and the mean of whole requests without their first token.",
        (
            *quantiles("sglang:inter_token_latency_seconds"),
            Query(
                f"{rate('sglang:request_time_per_output_token_seconds_sum', of=SERVER)} "
                f"/ {rate('sglang:request_time_per_output_token_seconds_count', of=SERVER)}",
                "mean {{instance}}",
            ),
        ),
    ),
    Panel(
        "Time of a request", "s", "From its arrival to its last token.", quantiles("sglang:e2e_request_latency_seconds")
    ),
)

LOAD = (
    Panel(
        "Requests",
        "none",
        "",
        (
            Query(total("sglang:num_running_reqs"), "running {{instance}}"),
            Query(total("sglang:num_queue_reqs"), "waiting {{instance}}"),
        ),
    ),
    Panel("Time in the queue", "s", "", quantiles("sglang:queue_time_seconds", of=RANK)),
    Panel(
        "Tokens",
        "cps",
        "A second, of requests that ended.",
        (
            Query(rate("sglang:prompt_tokens_total", of=SERVER), "prompt {{instance}}"),
            Query(rate("sglang:generation_tokens_total", of=SERVER), "generated {{instance}}"),
        ),
    ),
)

ROWS = {
    "Now": NOW,
    "Both bands": BANDS,
    "Reuse": REUSE,
    "What depth bands save": SAVINGS,
    "What does not fit": REFUSALS,
    "Latency": LATENCY,
    "Load": LOAD,
}
