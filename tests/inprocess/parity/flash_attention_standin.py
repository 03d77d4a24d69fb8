"""A stand-in for FlashAttention 3 on the CPU: the one function that SGLang's backend uses for Llama, in plain PyTorch.

It says nothing about kernels or speed. It reads page tables and lengths from the device, as the kernel does, and
refuses a page table that is narrower than the longest request, and queries of another dtype than the keys. Of fp8 it
takes e4m3 alone and answers in the dtype of these tests' models, float32; the kernel answers in bfloat16.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from tests.host import IS_OLDEST
from tests.inprocess.parity.attention_builder import attention_built_by
from tests.inprocess.parity.plain_attention import attend_one

BACKEND_MODULE = "sglang.srt.layers.attention.flashattention_backend"


@torch.library.custom_op("flash_attention_standin::attend", mutates_args=())
def attend(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    page_table: Tensor,
    cache_seqlens: Tensor,
    cu_seqlens_q: Tensor,
    softmax_scale: float,
    causal: bool,
) -> Tensor:
    """One operator, so that a recorded graph reads lengths and pages anew each time it runs.

    q: [num_rows, num_heads, head_dim]. k_cache, v_cache: [num_pages, page_size, num_kv_heads, head_dim].
    page_table: [batch_size, max_pages].
    """
    assert q.dtype == k_cache.dtype == v_cache.dtype != torch.float8_e5m2, f"{q.dtype}, {k_cache.dtype}"
    q = q.float() if q.dtype == torch.float8_e4m3fn else q
    out, page_size = torch.zeros_like(q), k_cache.shape[1]
    for index, length in enumerate(cache_seqlens.tolist()):
        rows = slice(*cu_seqlens_q[index : index + 2].tolist())
        positions = torch.arange(length)
        slots = page_table[index, positions // page_size].long() * page_size + positions % page_size
        if length and rows.stop > rows.start:
            k, v = k_cache.flatten(0, 1)[slots], v_cache.flatten(0, 1)[slots]
            out[rows] = attend_one(q[rows], k, v, softmax_scale, causal)[0]
    return out


def flash_attn_with_kvcache(*, q: Tensor, k_cache: Tensor, v_cache: Tensor, **options: Any) -> Tensor:
    assert options["window_size"] == (-1, -1)
    assert "k_descale" not in options, "the server refuses scales of keys and values"
    names = ("page_table", "cache_seqlens", "cu_seqlens_q", "softmax_scale", "causal")
    return attend(q, k_cache, v_cache, *(options[name] for name in names))


def set_decode_metadata(
    cache_seqlens: Tensor,
    cu_seqlens_k: Tensor,
    page_table: Tensor,
    table: Tensor,
    rows: Tensor,
    *more: Any,
    **__: Any,
) -> None:
    """In place of the Triton kernel that fills a graph's lengths and pages; no row is longer than its page table."""
    if IS_OLDEST:
        _, *more = more  # the positions at which pages begin
    max_pages, seq_lens, seq_len_delta, page_size = more[:4]
    cache_seqlens.copy_(seq_lens + seq_len_delta)
    cu_seqlens_k[1:].copy_(cache_seqlens.cumsum(0))
    for index, (row, length) in enumerate(zip(rows.tolist(), cache_seqlens.tolist(), strict=True)):
        num_pages = -(-length // page_size)
        assert num_pages <= max_pages, f"{num_pages=} of row {row}, the page table was promised {max_pages=}"
        page_table[index, :num_pages] = table[row, torch.arange(num_pages) * page_size] // page_size


@contextmanager
def flash_attention_standin() -> Iterator[type]:
    """Schedulers of the CPU platform run SGLang's FA3 backend, on the stand-in, until the block ends."""
    library, functions = ModuleType("sgl_kernel"), ModuleType("flash_attention")
    library.merge_state_v2 = None
    functions.flash_attn_with_kvcache = flash_attn_with_kvcache
    functions.flash_attn_varlen_func = functions.get_scheduler_metadata = lambda **_: None
    modules = {
        "sgl_kernel": library,
        "sgl_kernel.flash_attn": functions,
        "sglang.kernels.ops.attention.flash_attention": functions,
    }
    with mock.patch.dict(sys.modules, modules):
        sys.modules.pop(BACKEND_MODULE, None)
        backend = __import__(BACKEND_MODULE, fromlist=["FlashAttentionBackend"])
        backend.normal_decode_set_metadata = set_decode_metadata
        with attention_built_by(backend.FlashAttentionBackend):
            yield backend.FlashAttentionBackend
