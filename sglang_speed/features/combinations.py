"""Features that change which rows a batch has, or who keeps KV, two of them together. Pairs that are not proven are
refused.

Drafts and mixed chunks never meet: SGLang leaves mixed chunks out where there are drafts. LoRA beside a draft model is
refused by SGLang itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sglang_speed.features.base import Feature, Refusal, asks_for_adapters, not_beside, on
from sglang_speed.features.quantization import method_of

IS_SET: dict[str, Callable[[Any], bool]] = {
    "--enable-lora": asks_for_adapters,
    "--enable-hierarchical-cache": on("enable_hierarchical_cache"),
    "NGRAM": lambda args: bool(args.speculative_algorithm == "NGRAM"),
    "STANDALONE": lambda args: bool(args.speculative_algorithm == "STANDALONE"),
    "--enable-mixed-chunk": on("enable_mixed_chunk"),
    "--enable-streaming-session": on("enable_streaming_session"),
    "--is-embedding": on("is_embedding"),
    "quantized weights": lambda args: method_of(args) is not None,
}
PROVEN_TOGETHER = (
    ("--enable-lora", "--enable-hierarchical-cache"),
    ("--enable-lora", "NGRAM"),
    ("--enable-lora", "--enable-mixed-chunk"),
    ("--enable-lora", "--enable-streaming-session"),
    ("--enable-lora", "quantized weights"),
    ("--enable-hierarchical-cache", "NGRAM"),
    ("--enable-hierarchical-cache", "--enable-mixed-chunk"),
    ("--enable-hierarchical-cache", "--enable-streaming-session"),
    ("--enable-hierarchical-cache", "quantized weights"),
    ("NGRAM", "--enable-streaming-session"),
    ("NGRAM", "quantized weights"),
    ("STANDALONE", "--enable-streaming-session"),
    ("STANDALONE", "quantized weights"),
    ("--enable-mixed-chunk", "--enable-streaming-session"),
    ("--enable-mixed-chunk", "quantized weights"),
    ("--enable-streaming-session", "quantized weights"),
)
"""test_pairs asks each."""
_WITH_EMBEDDINGS = ("--enable-lora", "--enable-hierarchical-cache", "NGRAM", "STANDALONE", "--enable-streaming-session")
REFUSED_TOGETHER = {
    ("--enable-hierarchical-cache", "STANDALONE"): (
        "SGLang copies a draft model's layers with as many of the main pool's, which has those that prompt tokens "
        "pass, and under the name of what is filled in"
    ),
    **{(each, "--is-embedding"): "each is proven by itself, not both together" for each in _WITH_EMBEDDINGS},
}
"""With the reason. Prompts of test_last_states, which asks for embeddings, are mixed."""


def _pair(one: str, other: str, reason: str) -> Refusal:
    return not_beside(one, other, lambda args: IS_SET[one](args) and IS_SET[other](args), reason)


FEATURE = Feature(
    name="several of these together",
    served=tuple(f"{one} with {other}" for one, other in PROVEN_TOGETHER),
    proof=("tests/inprocess/parity/test_pairs.py",),
    refusals=tuple(_pair(*pair, reason) for pair, reason in REFUSED_TOGETHER.items()),
)
