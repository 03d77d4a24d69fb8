"""Prompts in chunks, KV in pages, chunks in one batch with decode steps. Served.

A mixed batch is an extend in which each running request has one row: its deep slot is taken as in a decode step.
"""

from __future__ import annotations

from typing import Any

from sglang_speed.features.base import Feature, Refusal, on
from sglang_speed.host.versions import OLDEST


def _no_chunk_has_a_page(args: Any) -> bool:
    return 0 < (args.chunked_prefill_size or 0) < args.page_size


FEATURE = Feature(
    name="chunked prefill, pages",
    served=("--chunked-prefill-size", "--page-size", "--enable-mixed-chunk"),
    proof=("tests/inprocess/parity/test_every_setting.py", "tests/inprocess/parity/test_mixed_chunks.py"),
    gpu="Triton; FlashInfer in part; mixed chunks not",
    refusals=(
        Refusal(
            "--enable-mixed-chunk",
            on("enable_mixed_chunk"),
            "SGLang 0.5.17 decodes in a mixed batch without asking whether the step fits",
            versions=(OLDEST,),
        ),
        Refusal(
            "--page-size",
            _no_chunk_has_a_page,
            "a page is larger than a chunk of --chunked-prefill-size, and no prompt would ever start",
        ),
    ),
)
