"""What this machine is fast at. Owns nothing but these choices; what the user asks for goes before them."""

from __future__ import annotations

import torch


def has_fast_bfloat16() -> bool:
    """Whether matrix products in bfloat16 are faster than in float32.

    A CPU without instructions for them converts: on an EPYC with AVX2, 20 against 175 GFLOP/s (576 x 1536, two cores).
    """
    return torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def answering_flags(concurrency: int) -> list[str]:
    """Flags of a server that only writes answers, to stand before the user's own: a later flag wins."""
    dtype = [] if has_fast_bfloat16() else ["--dtype", "float32"]
    return ["--max-running-requests", str(concurrency), *dtype]
