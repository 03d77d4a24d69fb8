"""Loads from the host's memory that come as late as a GPU may let them: layer by layer, beside the forward.

On a CPU a load is over before the forward starts. Here a layer of it is copied when the forward waits for that layer,
or else some turns of the scheduler later; until then its slots hold what no answer survives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

from sglang.srt.managers.cache_controller import LayerLoadingEvent
from sglang.srt.mem_cache.l2_transfer import L2TransferEngine, TransferCompletion

LATEST = 5
"""Times that the scheduler asks for the end of a load, once in each turn, before it has ended by itself."""


class LateLoad:
    """One load. layers: what copies each of them; those before `num_done` are there."""

    def __init__(self, layers: Sequence[Callable[[], None]]) -> None:
        self._layers = layers
        self.num_done = 0
        self._num_asked = 0

    def finish(self, num_layers: int | None = None) -> None:
        end = len(self._layers) if num_layers is None else num_layers
        for copy in self._layers[self.num_done : end]:
            copy()
        self.num_done = max(self.num_done, end)

    # As SGLang's event of the end of a load

    def query(self) -> bool:
        self._num_asked += 1
        if self._num_asked > LATEST:
            self.finish()
        return self.num_done == len(self._layers)

    def synchronize(self) -> None:
        self.finish()


class LateLoads:
    """All loads of a scheduler. num_waits: times that a forward waited for a layer that was not there."""

    def __init__(self) -> None:
        self.loads: list[LateLoad] = []
        self.num_waits = 0
        self._of_event: dict[int, LateLoad] = {}

    def submit(
        self,
        engine: L2TransferEngine,
        transfers: list[Any],
        *,
        transfer_layer_id_max: int,
        start_event: Any = None,
        on_layer_done: Any = None,
    ) -> TransferCompletion:
        """In place of L2TransferEngine.submit_host_to_device."""
        prepared = engine._prepare_transfers(transfers)
        for transfer in prepared:
            _spoil(transfer)
        layers = [partial(_copy, prepared, layer, engine.io_backend) for layer in range(transfer_layer_id_max)]
        load = LateLoad(layers)
        event = on_layer_done.__self__
        if id(event) in self._of_event:
            self._of_event[id(event)].finish()
        self._of_event[id(event)] = load
        self.loads.append(load)
        return TransferCompletion(load, load, False)

    def wait(self, event: LayerLoadingEvent, layer_index: int) -> None:
        """In place of LayerLoadingEvent.wait."""
        load = self._of_event.get(id(event))
        if load is not None and load.num_done <= layer_index:
            self.num_waits += 1
            load.finish(layer_index + 1)


def _spoil(transfer: Any) -> None:
    pool = transfer.device_pool
    buffers = [*pool.k_buffer, *pool.v_buffer] if hasattr(pool, "k_buffer") else pool.kv_buffer
    for buffer in buffers:
        buffer[transfer.device_indices] = float("nan") if buffer.is_floating_point() else 77


def _copy(transfers: Sequence[Any], layer: int, io_backend: str) -> None:
    for each in transfers:
        local = layer if each.layer_mapper is None else each.layer_mapper(layer)
        if local is not None:
            each.host_pool.load_to_device_per_layer_physical(
                each.device_pool, each.host_indices, each.device_indices, local, io_backend
            )


@contextmanager
def late_loads() -> Iterator[LateLoads]:
    """Until the block ends, loads of this process come late."""
    loads = LateLoads()

    def submit(engine: L2TransferEngine, transfers: list[Any], **kwargs: Any) -> TransferCompletion:
        return loads.submit(engine, transfers, **kwargs)

    def wait(event: LayerLoadingEvent, layer_index: int) -> None:
        loads.wait(event, layer_index)

    with (
        mock.patch.object(L2TransferEngine, "submit_host_to_device", submit),
        mock.patch.object(LayerLoadingEvent, "wait", wait),
    ):
        yield loads
