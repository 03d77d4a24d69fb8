"""SGLang 0.5.23."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import msgspec
import torch
from sglang.srt.arg_groups.fields.exec_ import ExecDeterministic, ExecGraph, ExecKernel
from sglang.srt.arg_groups.fields.lora import Lora
from sglang.srt.arg_groups.fields.memory import Memory
from sglang.srt.arg_groups.fields.schedule import Schedule
from sglang.srt.arg_groups.fields.spec import Spec
from sglang.srt.arg_groups.overrides import (
    attention_backends_of,
    declare_resolution,
    get_default_attn_backend,
    model_config_of,
    resolving_view,
    use_mla_backend,
)
from sglang.srt.arg_groups.resolution_hooks import register_resolution_hook
from sglang.srt.layers.attention.base_attn_backend import SharedReadEnds
from sglang.srt.layers.layer_boundary import PLAIN_ADD
from sglang.srt.layers.layer_boundary.residual.stream import ResidualStream
from sglang.srt.managers import io_struct
from sglang.srt.mem_cache.allocation_sizing import get_req_to_token_extra_context_len
from sglang.srt.mem_cache.kv_index_translator import KVIndexTranslator
from sglang.srt.model_executor.forward_context import ForwardContext, forward_context
from sglang.srt.runtime_context import get_parallel, get_platform, get_schedule, get_server_args
from sglang.srt.server_args import ServerArgs
from torch import Tensor

from sglang_speed.host.base import Host, Step, Stream

_DECIDING_GROUPS = (Schedule, Memory, ExecKernel, ExecGraph, ExecDeterministic, Lora, Spec)
_DECIDING = ("context_length", "dtype", "kv_cache_dtype", "load_format", "quantization")
_OF_A_MACHINE = ("_path", "_paths", "_file", "_dir")
"""How names of arguments end that may differ between machines."""


class _Resolved:
    """What resolution has decided so far, with the two methods that the arguments of 0.5.17 have."""

    def __init__(self, args: Any) -> None:
        self._args, self._view = args, resolving_view(args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._view, name)

    def get_attention_backends(self) -> Any:
        return attention_backends_of(self)

    def get_model_config(self) -> Any:
        return model_config_of(self._args)


class Host0523(Host):
    def resolve(self, **arguments: Any) -> Any:
        args = ServerArgs(**arguments)
        args.resolve_once()
        return self.resolved(args)

    def resolved(self, args: Any) -> Any:
        return args if isinstance(args, _Resolved) else _Resolved(args)

    def change(self, args: Any, **values: Any) -> None:
        declare_resolution(args, "sglang_speed", **values)

    def typed(self, args: Any, name: str) -> Any:
        return args._raw_input[name]

    def default_attention_backend(self, args: Any) -> str:
        chosen: str = get_default_attn_backend(args, use_mla_backend(args), model_config_of(args))
        return chosen

    def has_flashinfer(self) -> bool:
        return bool(get_platform().has_flashinfer)

    def on_resolution(self, step: str, kind: str, function: Step) -> None:
        def run(args: Any, previous: Step) -> None:
            if kind == "before":
                function(args)
            previous(args)
            if kind == "after":
                function(args)

        register_resolution_hook(step)(run)

    def extra_context_len(self, args: Any) -> int:
        length: int = get_req_to_token_extra_context_len()
        return length

    def num_bound_ranks(self, args: Any) -> int:
        ranks: int = args.tp_size * args.dp_size
        return ranks

    def arguments_of_process(self) -> Any:
        return get_server_args()

    def replica_of(self, scheduler: Any) -> int | None:
        rank: int | None = get_parallel().dp_rank
        return rank

    def deciding_arguments(self, args: Any) -> dict[str, Any]:
        names = (*_DECIDING, *(name for group in _DECIDING_GROUPS for name in group.__struct_fields__))
        view = self.resolved(args)
        shared = (name for name in names if not name.startswith("_") and not name.endswith(_OF_A_MACHINE))
        return {name: getattr(view, name) for name in shared}

    def row_of(self, req: Any) -> int | None:
        row: int | None = req.kv.req_pool_idx if req.kv.holds_kv else None
        return row

    def prefix_len(self, req: Any) -> int:
        length: int = req.prefix_len
        return length

    def extend_end(self, req: Any) -> int:
        end: int = req.extend_end
        return end

    def end_extend_at(self, req: Any, end: int) -> None:
        req.extend_end = end

    def namespace_of(self, req: Any) -> Hashable:
        return req.extra_key, req.cache_salt

    def take_readout(self, req: Any) -> list[int] | None:
        positions, req.token_indices_to_pool = req.token_indices_to_pool, None
        return positions

    def rows_in_use(self, checker: Any) -> set[int]:
        return {req.kv.req_pool_idx for req in checker._requests_owning_rows()}

    def prefers_low_priority(self, *args: Any) -> bool:
        return bool(get_schedule().schedule_low_priority_values_first)

    def finish_pool(self, pool: Any, first_layer: int) -> None:
        """Backends ask the pool's own first layer."""

    def index_translator(self, table: Tensor, allocator: Any, kv_pool: Any, device: str) -> Any:
        return KVIndexTranslator(
            req_to_token=table,
            token_to_kv_pool_allocator=allocator,
            token_to_kv_pool=kv_pool,
            page_size=1,
            device=device,
        )

    def bind_batch(self, translator: Any, batch: Any, in_graph: bool) -> None:
        """A copy of a batch has the plan of the batch that it was copied from, which reads the main table."""
        bind = translator.bind_runner_slots if in_graph else translator.bind_own_plan
        bind(batch)

    def set_num_rows(self, batch: Any, num_rows: int) -> None:
        batch.global_num_token_non_padded_cpu = num_rows
        for name in ("global_num_token_non_padded", "num_token_non_padded"):
            if getattr(batch, name) is not None:
                setattr(batch, name, torch.full_like(getattr(batch, name), num_rows))

    def attention_context(self, backend: Any, batch: Any) -> AbstractContextManager[None]:
        return forward_context(ForwardContext(attn_backend=backend), forward_batch=batch)

    def last_read(self, ends: Sequence[Any]) -> Any:
        return SharedReadEnds.max_of(list(ends))

    def hand_on(self, stream: Stream, batch: Any) -> Any:
        """Stages keep the residual on the batch, as at the beginning of a pipeline's later stage; other layers return
        it."""
        if getattr(batch, "residual_stream", None) is None or stream.residual is None:
            return stream.as_returned(residual_is_beside=True)
        hidden, batch.residual_stream = ResidualStream.from_handoff(stream.hidden, stream.residual, PLAIN_ADD)
        return stream._replace(hidden=hidden).as_returned(residual_is_beside=False)

    def as_first(self, stream: Stream, hidden: Tensor, batch: Any) -> Stream:
        if getattr(batch, "residual_stream", None) is None or stream.residual is None:
            return super().as_first(stream, hidden, batch)
        batch.residual_stream = None
        return Stream(hidden, None, stream.beside)

    def finish_layer(self, layer: Any) -> None:
        """The last norm completes what a layer owes."""

    def require_readable(self, message: Any, plain: dict[str, Any]) -> None:
        packed = msgspec.msgpack.encode(msgspec.structs.replace(message, **plain), enc_hook=io_struct.enc_hook)
        hooks = {"dec_hook": io_struct.dec_hook, "ext_hook": io_struct.ext_hook}
        msgspec.msgpack.decode(packed, type=type(message), **hooks)
