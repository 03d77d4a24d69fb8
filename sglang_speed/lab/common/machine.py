"""Choices that depend on this machine's speed. The user's flags override them."""

from __future__ import annotations

import torch


def has_fast_bfloat16() -> bool:
    """Whether matrix products are faster in bfloat16 than in float32.

    A CPU without bfloat16 instructions converts: on an EPYC with AVX2, 20 against 175 GFLOP/s (576 x 1536, two cores),
    or 1 against 130 (1024 x 1024).
    """
    return torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def answering_flags(concurrency: int) -> list[str]:
    """Flags of a server that writes answers, to precede the user's: later flags win."""
    dtype = [] if has_fast_bfloat16() else ["--dtype", "float32"]
    return ["--max-running-requests", str(concurrency), *dtype]
