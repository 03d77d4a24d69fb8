"""Decode graphs without a GPU: SGLang's own graph runner over operators that are recorded once and run again.

A capture records every operator of one forward with the tensors it was given. A replay runs the same operators on the
same tensors and writes the results where the first run wrote them, as a CUDA graph does: what Python looked up or
computed during the capture is frozen, and only what lies in a recorded tensor can change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest import mock

from sglang.srt.managers.scheduler import Scheduler
from sglang.srt.model_executor.forward_batch_info import ForwardMode
from sglang.srt.model_executor.graph_shared_output import GraphSharedOutput
from sglang.srt.model_executor.runner import decode_cuda_graph_runner as runner_module
from sglang.srt.model_executor.runner_backend.base_cuda_graph_backend import BaseCudaGraphBackend
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from tests.host import decode_graphs

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], Any]


class _Recorder(TorchDispatchMode):
    """Records each operator with its arguments and its results."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result


def _run_again(call: Call) -> None:
    func, args, kwargs, result = call
    for old, new in zip(tree_flatten(result)[0], tree_flatten(func(*args, **kwargs))[0], strict=True):
        if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
            old.copy_(new)


class RecordedGraphBackend(BaseCudaGraphBackend):
    """In place of SGLang's FullCudaGraphBackend."""

    def __init__(self) -> None:
        self.graphs: dict[Any, tuple[list[Call], Any]] = {}
        self.num_replays = 0

    @contextmanager
    def capture_session(self, stream: Any) -> Iterator[None]:
        yield

    def capture_one(
        self,
        shape_key: Any,
        forward_fn: Callable[[], Any],
        capture_inputs: Any = None,
        post_warmup_hook: Callable[[], None] | None = None,
    ) -> None:
        forward_fn()
        if post_warmup_hook is not None:
            post_warmup_hook()
        with _Recorder() as recorder:
            output = forward_fn()
        self.graphs[shape_key] = (recorder.calls, output)

    def can_run(self, forward_batch: Any, shape_key: Any) -> bool:
        return shape_key in self.graphs

    @contextmanager
    def replay_session(self) -> Iterator[None]:
        yield

    def replay(self, shape_key: Any, static_forward_batch: Any, **_: Any) -> Any:
        self.num_replays += 1
        calls, output = self.graphs[shape_key]
        for call in calls:
            _run_again(call)
        return output

    def cleanup(self) -> None:
        self.graphs.clear()


def record_decode_graphs(scheduler: Scheduler, batch_sizes: list[int]) -> RecordedGraphBackend:
    """Capture a scheduler's decode forwards for some batch sizes; it replays them from now on."""
    model_runner = scheduler.tp_worker.model_runner
    backend = RecordedGraphBackend()
    config = decode_graphs(model_runner)
    config.backend, config.bs, config.max_bs = "full", batch_sizes, max(batch_sizes)
    num_drafts = model_runner.server_args.speculative_num_draft_tokens or 1
    model_runner.graph_shared_output = GraphSharedOutput(device="cpu", max_rows=max(batch_sizes) * num_drafts)
    changes: dict[str, Any] = {
        "graph_capture": lambda **_: nullcontext(SimpleNamespace(stream=None)),
        "resolve_decode_backend": lambda _: backend,
        "get_available_gpu_memory": lambda *_, **__: 0.0,
        "get_batch_sizes_to_capture": lambda *_, **__: (batch_sizes, []),
        # its end unfreezes all modules, which each later scheduler of the process would then collect among
        "freeze_gc": lambda _: nullcontext(),
    }
    with ExitStack() as stack:
        for name, value in changes.items():
            stack.enter_context(mock.patch.object(runner_module, name, value))
        # on a CPU SGLang asks for no graph of verified drafts
        ForwardMode.is_cpu_graph = ForwardMode.is_cuda_graph
        # no events without a device; asked for at every replay too, so for good
        runner_module.DecodeCudaGraphRunner._record_in_graph_metadata_prep_done = lambda self: None
        model_runner.decode_cuda_graph_runner = runner_module.DecodeCudaGraphRunner(model_runner)
    return backend
