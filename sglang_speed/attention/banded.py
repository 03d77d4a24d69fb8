"""Two attention backends behind one: the shallow band's over SGLang's pool, the deep band's over its own.

Both are the backend that SGLang resolved, built twice. This wrapper plans both once per batch; the model
picks the band. It owns no KV.
"""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

from sglang.srt.layers.attention.base_attn_backend import AttentionBackend
from sglang.srt.mem_cache.memory_pool import KVCache
from sglang.srt.model_executor.forward_batch_info import ForwardBatch
from torch import Tensor

from sglang_speed.attention.deep_batch import DecodeBuffers, DeepBatch, build_deep_batch
from sglang_speed.kv_pool.deep_band import DeepBand


class BandedAttnBackend(AttentionBackend):
    """Seen from outside it is the shallow band's backend; `deep` and `deep_batch_of` serve the deep layers.

    In a decode graph the deep layers read the tensors of `DecodeBuffers`, which every replay fills again before the
    graph runs, as SGLang does with those of the shallow band.
    """

    def __init__(self, shallow: AttentionBackend, deep: AttentionBackend, band: DeepBand) -> None:
        super().__init__()
        self.shallow = shallow
        self.deep = deep
        self.band = band
        self._planned: tuple[ForwardBatch, DeepBatch] | None = None
        self._graph_buffers: DecodeBuffers | None = None
        self.forward_metadata = None
        self.token_to_kv_pool = shallow.token_to_kv_pool
        self.req_to_token_pool = shallow.req_to_token_pool
        self.needs_cpu_seq_lens = shallow.needs_cpu_seq_lens

    def init_forward_metadata(self, forward_batch: ForwardBatch) -> None:
        self.shallow.init_forward_metadata(forward_batch)
        deep_batch = build_deep_batch(forward_batch, self.band)
        if deep_batch.forward_batch is not None:
            self.deep.init_forward_metadata(deep_batch.forward_batch)
        self._planned = (forward_batch, deep_batch)

    def deep_batch_of(self, forward_batch: ForwardBatch) -> DeepBatch:
        """The deep view of the batch that was planned last, which must be this one."""
        assert self._planned is not None, "a forward runs that was never planned"
        planned, deep_batch = self._planned
        assert planned is forward_batch, "the forward runs another batch than the one that was planned"
        return deep_batch

    def init_cuda_graph_state(self, max_bs: int, max_num_tokens: int) -> None:
        self.shallow.init_cuda_graph_state(max_bs, max_num_tokens)
        self.deep.init_cuda_graph_state(max_bs, max_num_tokens)
        self._graph_buffers = DecodeBuffers(max_bs, self.band)

    def init_forward_metadata_out_graph(self, forward_batch: ForwardBatch, in_capture: bool = False) -> None:
        assert self._graph_buffers is not None, "init_cuda_graph_state comes first"
        self.shallow.init_forward_metadata_out_graph(forward_batch, in_capture)
        deep_batch = self._graph_buffers.fill(forward_batch)
        self.deep.init_forward_metadata_out_graph(deep_batch, in_capture)
        self._planned = (forward_batch, DeepBatch(rows=None, forward_batch=deep_batch))

    def init_forward_metadata_in_graph(self, forward_batch: ForwardBatch) -> None:
        self.shallow.init_forward_metadata_in_graph(forward_batch)
        self.deep.init_forward_metadata_in_graph(self.deep_batch_of(forward_batch).forward_batch)

    def on_after_cuda_graph_warmup(self) -> None:
        self.shallow.on_after_cuda_graph_warmup()
        self.deep.on_after_cuda_graph_warmup()

    def get_cuda_graph_seq_len_fill_value(self) -> int:
        """Length of a padding request. Its row is 0, whose gap is 0, so it has that length in both bands."""
        value: int = self.shallow.get_cuda_graph_seq_len_fill_value()
        return value

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.shallow.forward(*args, **kwargs)

    def support_triton(self) -> bool:
        supported: bool = self.shallow.support_triton()
        return supported


class DeepRunnerView:
    """A model runner as the deep band's backend sees it: another table, another pool, page size 1, and no request
    longer than the table is wide."""

    def __init__(self, model_runner: Any, band: DeepBand, kv_pool: KVCache) -> None:
        num_rows, width = band.table.shape
        self._model_runner = model_runner
        self.model_config = copy.copy(model_runner.model_config)
        self.model_config.context_len = width
        self.page_size = 1
        self.token_to_kv_pool = kv_pool
        self.token_to_kv_pool_allocator = band.allocator
        self.req_to_token_pool = SimpleNamespace(
            req_to_token=band.table, size=num_rows - 1, max_context_len=width, device=model_runner.device
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model_runner, name)
