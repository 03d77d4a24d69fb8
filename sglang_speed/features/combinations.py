"""Features that are served each by itself, and not proven beside each other. Refused in pairs."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

from sglang_speed.features.base import Feature, Refusal, on
from sglang_speed.features.quantization import method_of

BY_THEMSELVES: dict[str, Callable[[Any], bool]] = {
    "--enable-lora": lambda args: bool(args.enable_lora or args.lora_paths),
    "--enable-hierarchical-cache": on("enable_hierarchical_cache"),
    "--speculative-algorithm": on("speculative_algorithm"),
    "--enable-mixed-chunk": on("enable_mixed_chunk"),
    "--enable-streaming-session": on("enable_streaming_session"),
    "--is-embedding": on("is_embedding"),
    "quantized weights": lambda args: method_of(args) is not None,
}
"""All but the last change which rows a batch has, who keeps KV, or what a request is."""
PROVEN_TOGETHER = {
    ("--enable-mixed-chunk", "--enable-streaming-session"),
    ("--enable-hierarchical-cache", "quantized weights"),
    ("--enable-mixed-chunk", "quantized weights"),
    ("--enable-streaming-session", "quantized weights"),
    ("--enable-mixed-chunk", "--is-embedding"),
    ("--is-embedding", "quantized weights"),
}
"""Quantized layers give a row the same whatever else is in the batch; turns of test_streaming_sessions and prompts of
test_last_states are mixed."""
UNPROVEN = tuple(pair for pair in combinations(BY_THEMSELVES, 2) if pair not in PROVEN_TOGETHER)
_REASON = "each is proven by itself, not both together"


def _pair(one: str, other: str) -> Refusal:
    return Refusal(
        f"{one} with {other}",
        lambda args: BY_THEMSELVES[one](args) and BY_THEMSELVES[other](args),
        _REASON,
        message=lambda _: f"{one} is not supported with {other} and a SPEED model ({_REASON}); leave one of them out",
    )


FEATURE = Feature(name="several of these together", refusals=tuple(_pair(*pair) for pair in UNPROVEN))
