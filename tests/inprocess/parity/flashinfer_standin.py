"""A stand-in for FlashInfer on the CPU: the wrappers that SGLang's backend uses, in plain PyTorch.

It is no FlashInfer: it says nothing about kernels or speed. It keeps what the bookkeeping around FlashInfer can get
wrong: `plan` looks at lengths on the host and `run` at buffers on the device, wrappers of a graph read fixed buffers,
the logarithm of the sum of exponentials has base 2, rows of a ragged prefill do not see the pool, and a plan's dtypes
choose the kernel. A run whose buffers or dtypes are not those of its plan is an error here; the real kernels would
compute something else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from sglang.srt.layers.attention import flashinfer_backend
from torch import Tensor

from tests.host import IS_OLDEST
from tests.inprocess.parity.attention_builder import attention_built_by
from tests.inprocess.parity.plain_attention import attend_one


@torch.library.custom_op("flashinfer_standin::attend", mutates_args=())
def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    qo_indptr: Tensor,
    kv_indptr: Tensor,
    kv_indices: Tensor,
    planned: Tensor,
    mask: Tensor | None,
    sm_scale: float,
    causal: bool,
) -> tuple[Tensor, Tensor]:
    """One operator, so that a recorded graph reads lengths and slots anew each time it runs.

    q: [num_rows, num_heads, head_dim]. k, v: [num_slots, num_kv_heads, head_dim].
    planned: [2, batch_size + 1], the two indptr as the host knew them when it planned.
    mask: bool, flat, of each request [num_rows, length], in place of causality.
    Returns the output, like q, and the base-2 log-sum-exp [num_rows, num_heads].
    """
    num_requests = planned.shape[1] - 1
    on_device = torch.stack([qo_indptr[: num_requests + 1], kv_indptr[: num_requests + 1]])
    assert torch.equal(on_device.long(), planned), f"planned {planned.tolist()}, run on {on_device.tolist()}"
    out, lse = torch.zeros_like(q), torch.full(q.shape[:2], -torch.inf)
    masked = 0
    for index in range(num_requests):
        rows = slice(*planned[0, index : index + 2].tolist())
        slots = kv_indices[slice(*planned[1, index : index + 2].tolist())].long()
        if len(slots) and rows.stop > rows.start:
            size = (rows.stop - rows.start, len(slots))
            seen = None if mask is None else mask[masked : masked + size[0] * size[1]].view(size)
            masked += size[0] * size[1]
            out[rows], lse[rows] = attend_one(q[rows], k[slots], v[slots], sm_scale, causal, seen)
    return out, lse


class _Wrapper:
    """What the three wrappers share: a plan, and buffers that a graph keeps at their addresses."""

    def __init__(self, workspace: Tensor, layout: str = "NHD", use_cuda_graph: bool = False, **options: Any) -> None:
        assert layout == "NHD"
        self.is_cuda_graph_enabled = use_cuda_graph
        self._paged_kv_indptr_buf = options.get("paged_kv_indptr_buffer", options.get("paged_kv_indptr_buf"))
        self._paged_kv_indices_buf = options.get("paged_kv_indices_buffer", options.get("paged_kv_indices_buf"))
        self._planned: Tensor | None = None
        self._mask: Tensor | None = None
        self._dtypes: tuple[torch.dtype, torch.dtype] | None = None
        self.num_plans = 0

    def _keep(self, planned: Tensor) -> None:
        """In a graph the plan is written where the captured run looks for it."""
        self.num_plans += 1
        if self.is_cuda_graph_enabled and self._planned is not None:
            self._planned.copy_(planned)
        else:
            self._planned = planned

    def _plan(self, qo_indptr: Tensor, kv_indptr: Tensor, kv_indices: Tensor, kv_indptr_host: Tensor) -> None:
        if self.is_cuda_graph_enabled:
            assert kv_indptr.data_ptr() == self._paged_kv_indptr_buf.data_ptr(), "a graph reads another buffer"
            assert kv_indices.data_ptr() == self._paged_kv_indices_buf.data_ptr(), "a graph reads another buffer"
        self._qo_indptr_buf, self._paged_kv_indptr_buf, self._paged_kv_indices_buf = qo_indptr, kv_indptr, kv_indices
        self._keep(torch.stack([qo_indptr, kv_indptr_host]).long())

    def _choose_kernel(
        self, *, q_data_type: torch.dtype, kv_data_type: torch.dtype | None = None, **options: Any
    ) -> None:
        """By the dtypes of queries and of keys and values; `data_type` is what decode plans call the latter."""
        self._dtypes = q_data_type, kv_data_type or options.get("data_type") or q_data_type

    def _run(self, q: Tensor, k: Tensor, v: Tensor, sm_scale: float, causal: bool) -> tuple[Tensor, Tensor]:
        assert (q.dtype, k.dtype) == self._dtypes, f"planned for {self._dtypes}, run on {q.dtype}, {k.dtype}"
        assert v.dtype == k.dtype
        buffers = self._qo_indptr_buf, self._paged_kv_indptr_buf, self._paged_kv_indices_buf
        return attend(q, k, v, *buffers, self._planned, self._mask, sm_scale, causal)


class RaggedPrefill(_Wrapper):
    """BatchPrefillWithRaggedKVCacheWrapper: new rows attend to new rows, none of them read from the pool."""

    def begin_forward(
        self, qo_indptr: Tensor, kv_indptr: Tensor, num_heads: int, num_kv_heads: int, head_dim: int, **options: Any
    ) -> None:
        self._choose_kernel(**options)
        self._plan(qo_indptr, kv_indptr, torch.arange(int(kv_indptr[-1])), kv_indptr.clone())

    def forward_return_lse(
        self, q: Tensor, k: Tensor, v: Tensor, causal: bool, sm_scale: float, **_: Any
    ) -> tuple[Tensor, Tensor]:
        return self._run(q, k, v, sm_scale, causal)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.forward_return_lse(*args, **kwargs)[0]


class PagedPrefill(_Wrapper):
    """BatchPrefillWithPagedKVCacheWrapper: new rows attend to what the pool holds."""

    def __init__(self, *args: Any, custom_mask_buf: Tensor | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._qo_indptr_buf = options.get("qo_indptr_buf")
        self._custom_mask_buf = custom_mask_buf
        if custom_mask_buf is not None:
            self._mask = custom_mask_buf.view(torch.bool)  # the library keeps bits

    def begin_forward(
        self,
        qo_indptr: Tensor,
        kv_indptr: Tensor,
        kv_indices: Tensor,
        last_page_len: Tensor,
        *_: Any,
        custom_mask: Tensor | None = None,
        **options: Any,
    ) -> None:
        self._choose_kernel(**options)
        if custom_mask is not None:
            wanted = int((qo_indptr.diff() * kv_indptr.diff()).sum())
            assert len(custom_mask) >= wanted, f"a mask of {len(custom_mask)}, planned {wanted}"
            custom_mask = custom_mask[:wanted]
        if self.is_cuda_graph_enabled:
            assert (custom_mask is None) == (self._custom_mask_buf is None), "the graph has another kind of mask"
            indptr, indices = self._paged_kv_indptr_buf, self._paged_kv_indices_buf[: len(kv_indices)]
            pairs = [(self._qo_indptr_buf, qo_indptr), (indptr, kv_indptr), (indices, kv_indices)]
            if custom_mask is not None:
                pairs.append((self._mask[: len(custom_mask)], custom_mask))
            for buffer, values in pairs:
                buffer.copy_(values)
            self._keep(torch.stack([qo_indptr, kv_indptr]).long())
            return
        self._mask = custom_mask
        self._plan(qo_indptr, kv_indptr, kv_indices, kv_indptr.clone())

    def forward_return_lse(
        self, q: Tensor, kv_cache: tuple[Tensor, Tensor], causal: bool, sm_scale: float, **options: Any
    ) -> tuple[Tensor, Tensor]:
        _require_no_scales(options)
        return self._run(q, *kv_cache, sm_scale, causal)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.forward_return_lse(*args, **kwargs)[0]


class PagedDecode(_Wrapper):
    """BatchDecodeWithPagedKVCacheWrapper: one row for each request."""

    def begin_forward(
        self, kv_indptr: Tensor, kv_indices: Tensor, last_page_len: Tensor, *_: Any, **options: Any
    ) -> None:
        fast_decode_plan(self, kv_indptr, kv_indices, last_page_len, **options)

    def forward(self, q: Tensor, kv_cache: tuple[Tensor, Tensor], sm_scale: float, **options: Any) -> Tensor:
        _require_no_scales(options)
        return self._run(q, *kv_cache, sm_scale, causal=False)[0]


def _require_no_scales(options: dict[str, Any]) -> None:
    """The stand-in knows no scales of keys and values; the server refuses them."""
    assert options.get("k_scale") is None, options
    assert options.get("v_scale") is None, options


def fast_decode_plan(
    wrapper: PagedDecode, kv_indptr: Tensor, kv_indices: Tensor, last_page_len: Tensor, *_: Any, **options: Any
) -> None:
    """FlashInfer's: the plan is made of lengths that the host knows, where it is given them."""
    wrapper._choose_kernel(**options)
    host = options.get("global_override_indptr_cpu")
    rows = torch.arange(len(kv_indptr), dtype=kv_indptr.dtype)
    wrapper._plan(rows, kv_indptr, kv_indices, kv_indptr.clone() if host is None else host.to(kv_indptr.dtype))


def merge_state(v_a: Tensor, s_a: Tensor, v_b: Tensor, s_b: Tensor) -> tuple[Tensor, Tensor]:
    """Two partial attentions into one, from their base-2 log-sum-exps."""
    lse = torch.logaddexp2(s_a, s_b)
    weights = torch.exp2(s_a - lse)[..., None], torch.exp2(s_b - lse)[..., None]
    return v_a * weights[0].to(v_a.dtype) + v_b * weights[1].to(v_b.dtype), lse


class _FillIndices:
    """In place of the Triton kernel of SGLang that lists the slots of each request."""

    def __getitem__(self, grid: tuple[int]) -> Callable[..., None]:
        return self._fill

    @staticmethod
    def _fill(
        table: Tensor,
        rows: Tensor,
        lengths: Tensor,
        indptr: Tensor,
        start: Tensor | None,
        out: Tensor,
        stride: int,
        **_: Any,
    ) -> None:
        assert stride == table.stride(0), "the kernel would read other rows"
        assert start is None
        for index, (row, length) in enumerate(zip(rows.tolist(), lengths.tolist(), strict=True)):
            first = int(indptr[index])
            out[first : first + length] = table[row, :length]


class _TorchOnCpu:
    """`torch` as SGLang's backend sees it: what it puts on "cuda" by name lies on the CPU."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def empty(*args: Any, **kwargs: Any) -> Tensor:
        return torch.empty(*args, **{**kwargs, "device": "cpu"})

    @staticmethod
    def zeros(*args: Any, **kwargs: Any) -> Tensor:
        return torch.zeros(*args, **{**kwargs, "device": "cpu"})


@contextmanager
def flashinfer_standin() -> Iterator[type]:
    """Schedulers of the CPU platform run SGLang's FlashInfer backend, on the stand-in, until the block ends."""
    names = {
        "torch": _TorchOnCpu(),
        "BatchPrefillWithRaggedKVCacheWrapper": RaggedPrefill,
        "BatchPrefillWithPagedKVCacheWrapper": PagedPrefill,
        "BatchDecodeWithPagedKVCacheWrapper": PagedDecode,
        "fast_decode_plan": fast_decode_plan,
        "_safe_merge_state": merge_state,
        "create_flashinfer_kv_indices_triton": _FillIndices(),
    }
    fill = "sglang.srt.mem_cache.kv_index_translator.create_flashinfer_kv_indices_triton"
    with (
        mock.patch.multiple(flashinfer_backend, create=True, **names),
        nullcontext() if IS_OLDEST else mock.patch(fill, _FillIndices()),
        attention_built_by(_build),
    ):
        yield flashinfer_backend.FlashInferAttnBackend


def _build(runner: Any) -> flashinfer_backend.FlashInferAttnBackend:
    return flashinfer_backend.FlashInferAttnBackend(runner, init_new_workspace=False)
