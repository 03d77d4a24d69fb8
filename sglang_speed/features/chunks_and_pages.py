"""Prompts in chunks, KV in pages. Served; chunks in one batch with decode steps are not."""

from __future__ import annotations

from typing import Any

from sglang_speed.features.base import Feature, Refusal, on


def _no_chunk_has_a_page(args: Any) -> bool:
    return 0 < (args.chunked_prefill_size or 0) < args.page_size


FEATURE = Feature(
    name="chunked prefill, pages",
    served=("--chunked-prefill-size", "--page-size"),
    proof=("tests/inprocess/parity/test_every_setting.py",),
    gpu="Triton; FlashInfer in part",
    refusals=(
        Refusal("--enable-mixed-chunk", on("enable_mixed_chunk"), "its decode steps are not checked for deep slots"),
        Refusal(
            "--page-size",
            _no_chunk_has_a_page,
            "a page is larger than a chunk of --chunked-prefill-size, and no prompt would ever start",
        ),
    ),
)
