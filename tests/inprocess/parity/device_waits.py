"""Where a scheduler on a CPU does what would wait for a GPU.

Owns what counts: operators whose result Python or the shape of a tensor needs, on tensors that would be on the device.
Here every tensor is on the CPU. Those that would be there on a GPU machine too are made from Python values without a
device, or are called `..._cpu` in a batch, and what is computed from them alone is like them; `to(device)` makes one on
the device. Attention is left out: the CPU's backend is not the one that a GPU runs.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from sglang.srt.managers.schedule_batch import ScheduleBatch
from sglang.srt.model_executor.forward_batch_info import ForwardBatch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from sglang_speed.platforms.cpu.attention import CpuAttnBackend
from sglang_speed.served import active_pool
from tests.scheduler_harness import SchedulerHarness

WAITING_OPERATORS = {
    "_local_scalar_dense",  # item, int, float, bool
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "equal",
    "bincount",
}
MASKED_OPERATORS = {"index", "index_put", "index_put_", "_unsafe_index"}
"""They wait where an index is a mask: its number of elements decides a shape."""
WAITING_METHODS = ("tolist", "numpy", "cpu")
"""Methods that reach no operator on a CPU."""
FACTORIES = ("tensor", "as_tensor", "from_numpy")
ATTENTION = ("init_forward_metadata", "forward_extend", "forward_decode")


class DeviceWaits(TorchDispatchMode):
    """Collects one list of places per turn of the event loop."""

    def __init__(self) -> None:
        super().__init__()
        self.turns: list[list[str]] = [[]]
        self.on_cpu: Any = WeakIdKeyDictionary()
        self.is_paused = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        name = func.overloadpacket.__name__
        if name in WAITING_OPERATORS or name == "repeat_interleave" or self._has_mask(name, args):
            self.note(name, inputs)
        result = func(*args, **(kwargs or {}))
        if inputs and all(each in self.on_cpu for each in (inputs[:1] if name == "index" else inputs)):
            self.keep_on_cpu(*tree_leaves(result))
        return result

    def note(self, name: str, tensors: list[Tensor]) -> None:
        if not self.is_paused and not all(each in self.on_cpu for each in tensors):
            frames = [frame for frame in traceback.extract_stack() if "sglang" in frame.filename]
            place = f"{frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else "?"
            self.turns[-1].append(f"{name} at {place}")

    def keep_on_cpu(self, *values: Any) -> None:
        for value in values:
            if isinstance(value, Tensor):
                self.on_cpu[value] = True

    def on_device(self, tensor: Tensor) -> Tensor:
        """A copy that counts as on the device."""
        copied = tensor.clone()
        self.on_cpu.pop(copied, None)
        return copied

    @staticmethod
    def _has_mask(name: str, args: Any) -> bool:
        if name not in MASKED_OPERATORS:
            return False
        return any(isinstance(each, Tensor) and each.dtype in (torch.bool, torch.uint8) for each in args[1])


@contextmanager
def waits_counted(engine: SchedulerHarness) -> Iterator[DeviceWaits]:
    """Count until the block ends."""
    waits, pool = DeviceWaits(), active_pool()
    if pool is not None:
        waits.keep_on_cpu(*(band.gap_cpu for band in pool.deep_bands))
    with ExitStack() as stack:
        for method in WAITING_METHODS:
            stack.enter_context(mock.patch.object(Tensor, method, _noted(waits, method)))
        for factory in FACTORIES:
            stack.enter_context(mock.patch.object(torch, factory, _made_on_cpu(waits, factory)))
        stack.enter_context(mock.patch.object(Tensor, "to", _moved(waits)))
        for batch in (ScheduleBatch, ForwardBatch):
            stack.enter_context(mock.patch.object(batch, "__setattr__", _keeping_cpu_copies(waits)))
        for method in ATTENTION:
            stack.enter_context(mock.patch.object(CpuAttnBackend, method, _left_out(waits, method)))
        stack.enter_context(mock.patch.object(engine.feed, "recv_requests", _starting_a_turn(waits, engine)))
        stack.enter_context(waits)
        yield waits


def _noted(waits: DeviceWaits, method: str) -> Callable[..., Any]:
    original = getattr(Tensor, method)

    def noted(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        waits.note(method, [tensor])
        if method != "cpu":
            return original(tensor, *args, **kwargs)
        copied = tensor.clone()
        waits.keep_on_cpu(copied)
        return copied

    return noted


def _made_on_cpu(waits: DeviceWaits, factory: str) -> Callable[..., Tensor]:
    original = getattr(torch, factory)

    def made(*args: Any, **kwargs: Any) -> Tensor:
        tensor: Tensor = original(*args, **kwargs)
        if kwargs.get("device") is None:
            waits.keep_on_cpu(tensor)
        return tensor

    return made


def _moved(waits: DeviceWaits) -> Callable[..., Tensor]:
    original = Tensor.to

    def moved(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        has_device = any(isinstance(each, str | torch.device) for each in (*args, kwargs.get("device")))
        result: Tensor = original(tensor, *args, **kwargs)
        return waits.on_device(result) if has_device else result

    return moved


def _keeping_cpu_copies(waits: DeviceWaits) -> Callable[..., None]:
    def keep(batch: Any, name: str, value: Any) -> None:
        if name.endswith("_cpu"):
            waits.keep_on_cpu(value)
        object.__setattr__(batch, name, value)

    return keep


def _left_out(waits: DeviceWaits, method: str) -> Callable[..., Any]:
    original = getattr(CpuAttnBackend, method)

    def left_out(*args: Any, **kwargs: Any) -> Any:
        waits.is_paused = True
        try:
            return original(*args, **kwargs)
        finally:
            waits.is_paused = False

    return left_out


def _starting_a_turn(waits: DeviceWaits, engine: SchedulerHarness) -> Callable[[], list[Any]]:
    original = engine.feed.recv_requests

    def start(*args: Any, **kwargs: Any) -> list[Any]:
        waits.turns.append([])
        return original()

    return start
