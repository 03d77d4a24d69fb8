"""Several attention backends behind one: the shallow band's over SGLang's pool, each deep band's over its own.

All are the backend that SGLang resolved, built once per band. This wrapper plans each once per batch; the model
picks the band. It owns no KV.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from sglang.srt.layers.attention.base_attn_backend import AttentionBackend
from sglang.srt.mem_cache.memory_pool import KVWriteLoc
from sglang.srt.model_executor.forward_batch_info import ForwardBatch
from torch import Tensor

from sglang_speed.attention.adapters import Adapters, has_prompts
from sglang_speed.attention.deep_batch import (
    DecodeBuffers,
    DeepBatch,
    build_deep_batches,
    is_step,
    lost_anchors_of,
    request_rows,
)
from sglang_speed.attention.filling import FillingBackend
from sglang_speed.attention.from_states import DeepRows
from sglang_speed.host.adapter import HOST
from sglang_speed.kv_pool.deep_band import DeepBand
from sglang_speed.kv_pool.request_pool import Drafted
from sglang_speed.kv_pool.states import StateStore
from sglang_speed.method.bands import THINNED
from sglang_speed.policy_config import Selection


@dataclass(frozen=True)
class FromStates:
    """What the deep bands begin with where the main pool has states.

    store: the states. max_rows: how many run together. selection: how tokens are chosen, if scores do it.
    """

    store: StateStore
    max_rows: int
    selection: Selection | None


class WritesFirst:
    """A backend that puts keys and values into the pool before anything attends; not all of them do by themselves."""

    def __init__(self, backend: AttentionBackend, pool: Any) -> None:
        self._backend, self._pool = backend, pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def forward(
        self,
        q: Tensor,
        k: Tensor | None,
        v: Tensor | None,
        layer: Any,
        forward_batch: ForwardBatch,
        save_kv_cache: bool = True,
        **kwargs: Any,
    ) -> Tensor:
        if save_kv_cache and k is not None:
            self._pool.set_kv_buffer(layer, KVWriteLoc(forward_batch.out_cache_loc, None), k, v)
        out: Tensor = self._backend.forward(q, k, v, layer, forward_batch, save_kv_cache, **kwargs)
        return out


@dataclass
class DeepAttention:
    """A deep band, its layers, and the backend over its table and pool.

    translator: what the backend finds slots with, where it does not read the table.
    graph_buffers: what decode graphs read of the band.
    """

    band: DeepBand
    layers: range
    backend: AttentionBackend
    translator: Any
    graph_buffers: DecodeBuffers | None = None

    def __post_init__(self) -> None:
        found = getattr(self.backend, "kv_index_translator", None)
        assert found in (None, self.translator), f"the {self.band.name} band's backend reads another request table"

    def plan(self, batch: DeepBatch) -> None:
        """Plan a batch outside of a decode graph; a backend knows one plan at a time."""
        if batch.forward_batch is not None:
            HOST.bind_batch(self.translator, batch.forward_batch, in_graph=False)
            self.backend.init_forward_metadata(batch.forward_batch)

    @contextmanager
    def running(self, batch: DeepBatch) -> Iterator[None]:
        """Until the block ends, layers attend through the band's backend, over a batch that is planned, and have the
        adapters of its rows."""
        assert batch.forward_batch is not None, "a batch without rows is not run"
        backend = self.backend
        if batch.sees_itself:
            backend = WritesFirst(self.backend, self.band.allocator.get_kvcache())
        with HOST.attention_context(backend, batch.forward_batch), _adapters_of(batch):
            yield


def _adapters_of(batch: DeepBatch) -> AbstractContextManager[None]:
    return nullcontext() if batch.adapters is None else batch.adapters.in_place()


class BandedAttnBackend(AttentionBackend):
    """Seen from outside it is the shallow band's backend; `deep` and `deep_parts_of` serve the deep layers.

    In a decode graph the deep layers read the tensors of `DecodeBuffers`, which every replay fills again before the
    graph runs, as SGLang does with those of the shallow band.
    """

    def __init__(
        self,
        shallow: AttentionBackend,
        deep: Sequence[DeepAttention],
        from_states: FromStates | None = None,
        adapters: Adapters | None = None,
    ) -> None:
        """deep: of all bands but the shallow one, in the order of `BandedReqToTokenPool.deep_bands`. adapters: None
        where none are served."""
        super().__init__()
        self.shallow = shallow
        *most, last = deep
        is_thinned = last.band.name == THINNED
        self.deep = tuple(most) if is_thinned else tuple(deep)
        self.thinned = last if is_thinned else None
        self.filling = FillingBackend(deep[0].band) if deep[0].band.first_filled is not None else None
        self.from_states = from_states
        self._adapters = adapters
        self._planned: tuple[ForwardBatch, Sequence[DeepBatch] | DeepRows] | None = None
        self._is_planned_again = False
        self.forward_metadata = None
        self.token_to_kv_pool = shallow.token_to_kv_pool
        self.req_to_token_pool = shallow.req_to_token_pool
        self.needs_cpu_seq_lens = shallow.needs_cpu_seq_lens
        self.extend_dummy_seqs_capped_by_req_pool = getattr(shallow, "extend_dummy_seqs_capped_by_req_pool", False)

    @property
    def max_context_len(self) -> int:
        """The longest that a request can be; SGLang makes masks for a draft model's batch so long."""
        length: int = self.shallow.max_context_len
        return length

    @property
    def backends(self) -> list[AttentionBackend]:
        """One for each band, from the bottom up."""
        return [self.shallow, *(each.backend for each in self.deep), *(each.backend for each in self._behind)]

    @property
    def _behind(self) -> list[DeepAttention]:
        return [] if self.thinned is None else [self.thinned]

    @property
    def _in_decode(self) -> list[DeepAttention]:
        """Bands beside the shallow one that a decode step has; where contexts are thinned there is theirs alone."""
        return self._behind or list(self.deep)

    def init_forward_metadata(self, forward_batch: ForwardBatch) -> None:
        if self.thinned is not None and is_step(forward_batch):
            batches = build_deep_batches(forward_batch, [self.thinned.band])
            self.thinned.plan(batches[0])
            self._plan_is(forward_batch, batches)
            return
        self.shallow.init_forward_metadata(forward_batch)
        if self.filling is not None and has_prompts(forward_batch.forward_mode):
            lengths = zip(forward_batch.extend_prefix_lens_cpu, forward_batch.extend_seq_lens_cpu, strict=True)
            self.req_to_token_pool.fill(request_rows(forward_batch), list(map(sum, lengths)))
        bands = [each.band for each in self.deep]
        self._is_planned_again = bool(lost_anchors_of(forward_batch, bands[0]))
        if self.from_states is not None and has_prompts(forward_batch.forward_mode):
            self._planned = (forward_batch, self._plan_rows(forward_batch, bands, self.from_states.max_rows))
            return
        batches = self._with_adapters(build_deep_batches(forward_batch, bands))
        for each, batch in zip(self.deep, batches, strict=True):
            each.plan(batch)
        self._plan_is(forward_batch, batches)

    @contextmanager
    def running_before(
        self, forward_batch: ForwardBatch, batch: DeepBatch, deep: Sequence[DeepBatch]
    ) -> Iterator[None]:
        """Until the block ends, the model runs another batch than the planned one, which is planned again then.

        batch: as the shallow band runs it. deep: the same rows in each deep band.
        """
        self._planned_for(forward_batch)
        view, (adapted,) = batch.forward_batch, self._with_adapters([batch])
        assert view is not None, "a batch without rows is not run"
        translator = getattr(self.shallow, "kv_index_translator", None)
        if translator is not None:
            HOST.bind_batch(translator, view, in_graph=False)
        self.shallow.init_forward_metadata(view)
        for each, own in zip(self.deep, deep, strict=True):
            each.plan(own)
        self._planned = view, deep
        with HOST.attention_context(self, view), _adapters_of(adapted):
            yield
        self.init_forward_metadata(forward_batch)

    def _plan_is(self, forward_batch: ForwardBatch, batches: Sequence[DeepBatch]) -> None:
        self._planned = (forward_batch, batches)
        if forward_batch.forward_mode.is_target_verify():
            planned = zip(self._in_decode, batches, strict=True)
            views = [(each.band, batch.forward_batch) for each, batch in planned]
            self.req_to_token_pool.drafted = [Drafted(band, view.out_cache_loc) for band, view in views if view]

    def _with_adapters(self, batches: list[DeepBatch]) -> list[DeepBatch]:
        return batches if self._adapters is None else self._adapters.planned(batches)

    def _plan_rows(self, forward_batch: ForwardBatch, bands: Sequence[DeepBand], max_rows: int) -> DeepRows:
        """What deep bands compute from states, planned as far as it is before the forward: several pieces of a band are
        planned one after the other, when they run."""
        rows = DeepRows(forward_batch, bands, max_rows, None if self.thinned is None else self.thinned.band)
        rows.batches = [self._with_adapters(pieces) for pieces in rows.batches]
        if self.thinned is not None and rows.behind is not None:
            (rows.behind,) = self._with_adapters([rows.behind])
            self.thinned.plan(rows.behind)
        for each, pieces in zip(self.deep, rows.batches, strict=True):
            if len(pieces) == 1:
                each.plan(pieces[0])
        return rows

    def deep_parts_of(self, forward_batch: ForwardBatch) -> list[tuple[DeepAttention, DeepBatch]]:
        """What each deep band runs on, from the bottom up; the batch must be the one that was planned last."""
        batches = self._planned_for(forward_batch)
        assert not isinstance(batches, DeepRows), "the deep bands of this batch begin with states"
        return list(zip(self.deep, batches, strict=True))

    def thinned_step_of(self, forward_batch: ForwardBatch) -> tuple[DeepAttention, DeepBatch] | None:
        """What a decode step runs on where contexts are thinned."""
        planned = self._planned_for(forward_batch)
        if self.thinned is None or isinstance(planned, DeepRows) or forward_batch.forward_mode.is_idle():
            return None
        return self.thinned, planned[0]

    def deep_rows_of(self, forward_batch: ForwardBatch) -> DeepRows | None:
        """What the deep bands compute from states, in an extend of a model that keeps them."""
        planned = self._planned_for(forward_batch)
        return planned if isinstance(planned, DeepRows) else None

    def _planned_for(self, forward_batch: ForwardBatch) -> Sequence[DeepBatch] | DeepRows:
        assert self._planned is not None, "a forward runs that was never planned"
        planned, batches = self._planned
        assert planned is forward_batch, "the forward runs another batch than the one that was planned"
        return batches

    def init_cuda_graph_state(self, max_bs: int, max_num_tokens: int) -> None:
        if self.thinned is None:
            self.shallow.init_cuda_graph_state(max_bs, max_num_tokens)
        for each in self._in_decode:
            each.backend.init_cuda_graph_state(max_bs, max_num_tokens)
            each.graph_buffers = DecodeBuffers(max_bs, max_num_tokens, each.band)

    def init_forward_metadata_out_graph(self, forward_batch: ForwardBatch, in_capture: bool = False) -> None:
        if self.thinned is None:
            self.shallow.init_forward_metadata_out_graph(forward_batch, in_capture)
        batches = []
        for each in self._in_decode:
            assert each.graph_buffers is not None, "init_cuda_graph_state comes first"
            batch = each.graph_buffers.fill(forward_batch)
            HOST.bind_batch(each.translator, batch, in_graph=True)
            each.backend.init_forward_metadata_out_graph(batch, in_capture)
            batches.append(DeepBatch(forward_batch=batch))
        self._plan_is(forward_batch, batches)

    def init_forward_metadata_in_graph(self, forward_batch: ForwardBatch) -> None:
        if self.thinned is None:
            self.shallow.init_forward_metadata_in_graph(forward_batch)
        batches = self._planned_for(forward_batch)
        assert not isinstance(batches, DeepRows), "a decode graph has no states to begin with"
        for each, batch in zip(self._in_decode, batches, strict=True):
            each.backend.init_forward_metadata_in_graph(batch.forward_batch)

    def on_after_cuda_graph_warmup(self) -> None:
        for backend in self.backends:
            backend.on_after_cuda_graph_warmup()

    def get_cuda_graph_seq_len_fill_value(self) -> int:
        """Length of a padding request. Its row is 0, whose gap is 0, so it has that length in every band."""
        value: int = self.shallow.get_cuda_graph_seq_len_fill_value()
        return value

    def shared_read_ends(self, mode: Any) -> Any:
        """When no backend reads the tables any more, which the scheduler may then change. Deep bands that begin with
        states read them in the midst of an extend, and so do lost anchors; its end is what SGLang takes of who says
        nothing."""
        reads_late = self.from_states is not None or self._is_planned_again
        if reads_late and has_prompts(mode):
            return super().shared_read_ends(mode)
        return HOST.last_read([backend.shared_read_ends(mode) for backend in self.backends])

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.shallow.forward(*args, **kwargs)

    def support_triton(self) -> bool:
        supported: bool = self.shallow.support_triton()
        return supported


class DeepRunnerView:
    """A model runner as a deep band's backend sees it: another table, another pool, page size 1, and no request
    longer than the table is wide."""

    def __init__(self, model_runner: Any, band: DeepBand) -> None:
        width = band.table.shape[1]
        # backends keep a place for each sequence of a batch; where KV is filled in, anchors are one of their own
        num_sequences = band.num_rows * (1 if band.first_filled is None else 2)
        self.band = band
        self._model_runner = model_runner
        self.model_config = copy.copy(model_runner.model_config)
        self.model_config.context_len = width
        self.page_size = 1
        self.token_to_kv_pool = pool = band.allocator.get_kvcache()
        self.layers = range(pool.start_layer, pool.start_layer + pool.layer_num)
        self.token_to_kv_pool_allocator = band.allocator
        self.req_to_token_pool = SimpleNamespace(
            req_to_token=band.table, size=num_sequences, max_context_len=width, device=model_runner.device
        )
        self.kv_index_translator = HOST.index_translator(
            band.table, band.allocator, self.token_to_kv_pool, model_runner.device
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model_runner, name)
