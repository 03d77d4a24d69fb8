"""SGLang 0.5.17."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import msgspec
import torch
from sglang.srt.layers.communicator import LayerCommunicator
from sglang.srt.managers import io_struct
from sglang.srt.mem_cache.allocation_sizing import get_req_to_token_extra_context_len
from sglang.srt.model_executor.forward_context import ForwardContext, forward_context
from sglang.srt.server_args import ServerArgs, get_global_server_args
from sglang.srt.utils import is_flashinfer_available
from torch import Tensor

from sglang_speed.host.base import Host, Step, Stream


class Host0517(Host):
    def resolve(self, **arguments: Any) -> Any:
        args = ServerArgs(**arguments)
        args.check_server_args()
        return args

    def resolved(self, args: Any) -> Any:
        return args

    def change(self, args: Any, **values: Any) -> None:
        for name, value in values.items():
            setattr(args, name, value)

    def typed(self, args: Any, name: str) -> Any:
        raise AssertionError("this version changes arguments in place")

    def default_attention_backend(self, args: Any) -> str:
        raise AssertionError("this version asks a method, which a hook changes")

    def has_flashinfer(self) -> bool:
        return bool(is_flashinfer_available())

    def on_resolution(self, step: str, kind: str, function: Step) -> None:
        raise AssertionError("this version resolves arguments in methods, which hooks change")

    def extra_context_len(self, args: Any) -> int:
        length: int = get_req_to_token_extra_context_len(args)
        return length

    def num_bound_ranks(self, args: Any) -> int:
        """Each data-parallel replica shares all cores among its own."""
        ranks: int = args.tp_size
        return ranks

    def arguments_of_process(self) -> Any:
        return get_global_server_args()

    def replica_of(self, scheduler: Any) -> int | None:
        rank: int | None = scheduler.ps.dp_rank
        return rank

    def deciding_arguments(self, args: Any) -> dict[str, Any]:
        """None: several machines are refused, and on one all ranks have the arguments of one process."""
        return {}

    def row_of(self, req: Any) -> int | None:
        row: int | None = req.req_pool_idx
        return row

    def prefix_len(self, req: Any) -> int:
        return len(req.prefix_indices)

    def extend_end(self, req: Any) -> int:
        end: int = req.extend_range.end
        return end

    def end_extend_at(self, req: Any, end: int) -> None:
        req.set_extend_range(req.extend_range.start, end)

    def namespace_of(self, req: Any) -> Hashable:
        namespace: Hashable = req.extra_key
        return namespace

    def take_readout(self, req: Any) -> list[int] | None:
        return None

    def rows_in_use(self, checker: Any) -> set[int]:
        rows: set[int] = checker.pool_stats_observer.active_pool_idxs()
        return rows

    def prefers_low_priority(self, *args: Any) -> bool:
        (server_args,) = args
        return bool(server_args.schedule_low_priority_values_first)

    def finish_pool(self, pool: Any, first_layer: int) -> None:
        """TritonAttnBackend.__init__ asks layer 0 for the head dimension, wherever a pool starts."""
        value_buffer_of = pool.get_value_buffer
        pool.get_value_buffer = lambda layer_id: value_buffer_of(layer_id or first_layer)

    def index_translator(self, table: Tensor, allocator: Any, kv_pool: Any, device: str) -> Any:
        return None

    def bind_batch(self, translator: Any, batch: Any, in_graph: bool) -> None:
        pass

    def set_num_rows(self, batch: Any, num_rows: int) -> None:
        batch.num_token_non_padded_cpu = num_rows
        if batch.num_token_non_padded is not None:
            batch.num_token_non_padded = torch.full_like(batch.num_token_non_padded, num_rows)

    def attention_context(self, backend: Any, batch: Any) -> AbstractContextManager[None]:
        return forward_context(ForwardContext(attn_backend=backend))

    def last_read(self, ends: Sequence[Any]) -> Any:
        raise AssertionError("this version does not ask")

    def hand_on(self, stream: Stream, batch: Any) -> Any:
        return stream.as_returned(residual_is_beside=True)

    def finish_layer(self, layer: Any) -> None:
        communicator = getattr(layer, "layer_communicator", None)
        if isinstance(communicator, LayerCommunicator):
            communicator.is_last_layer = True

    def require_readable(self, message: Any, plain: dict[str, Any]) -> None:
        changed = msgspec.structs.replace(message, **plain, mm_data_mooncake=None)
        packed = msgspec.msgpack.encode(changed, enc_hook=io_struct.enc_hook)
        msgspec.msgpack.decode(packed, type=type(message), dec_hook=io_struct.dec_hook)
