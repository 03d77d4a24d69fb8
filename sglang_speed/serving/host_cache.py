"""The hierarchical cache: what SGLang keeps of a prefix in the host's memory where the deep band has a part of it.

SGLang mirrors the main pool, states among its layers, and needs nothing for that. Keys and values that are filled in
lie in the deep band's pool, at the slots of the main pool and a number; here they become a second pool that is copied
with it. What deep bands compute is in neither, and never leaves the device.
"""

from __future__ import annotations

from typing import Any

from sglang.srt.managers.cache_controller import LayerDoneCounter
from sglang.srt.mem_cache.hicache_storage import PoolName, SidecarPoolSpec
from sglang.srt.mem_cache.hybrid_cache import hybrid_pool_assembler as assembler
from sglang.srt.runtime_context import get_context, get_memory

from sglang_speed.kv_pool.deep_band import DeepBand
from sglang_speed.served import served
from sglang_speed.serving.fields import HOST_BYTES, HOST_SLOTS

FILLED = PoolName.DRAFT
"""SGLang's names of pools are a closed list. A draft model's pool has the same slots too; where there is one, SGLang
refuses a second pool of that name."""


def keep_filled(main_pool: Any, band: DeepBand) -> None:
    """Let what is filled in in a band be copied with the main pool; before SGLang sizes and builds its host pools."""
    assert band.first_filled is not None, "nothing is filled in"
    first, pool = band.first_filled, band.allocator.get_kvcache()
    HOST_SLOTS.set(pool, lambda main_slots: main_slots + first)
    HOST_BYTES.set(main_pool, _bytes(main_pool) + filled_bytes(main_pool, band))
    if not any(isinstance(each, FilledStrategy) for each in assembler._STRATEGIES):
        assembler.register_stack_strategy(FilledStrategy())


def filled_bytes(main_pool: Any, band: DeepBand) -> int:
    """What is filled in for all slots of the main pool."""
    return _bytes(main_pool) // main_pool.layer_num * band.allocator.get_kvcache().layer_num


def _bytes(pool: Any) -> int:
    sizes = pool.get_kv_size_bytes()
    return int(sum(sizes)) if isinstance(sizes, tuple) else int(sizes)


def _filled_band() -> DeepBand | None:
    model = served()
    bands = () if model is None else model.deep_bands
    return next((band for band in bands if band.first_filled is not None), None)


class FilledStrategy(assembler._PlainKvStrategy):
    """SGLang's host pool for the main pool, and one beside it for what is filled in."""

    def matches(self, kvcache: Any, components: Any) -> bool:
        return _filled_band() is not None and bool(super().matches(kvcache, components))

    def build(self, *, kvcache: Any, **kwargs: Any) -> assembler.StackBuildResult:
        band = _filled_band()
        assert band is not None, "nothing is filled in"
        pool, total = band.allocator.get_kvcache(), get_memory().hicache_size
        share = _bytes(kvcache) / (_bytes(kvcache) + filled_bytes(kvcache, band))
        get_context().override("sglang_speed.host_cache", hicache_size=total * share)
        try:
            result = super().build(kvcache=kvcache, **kwargs)
        finally:
            get_context().override("sglang_speed.host_cache", hicache_size=total)
        controller, group = result.cache_controller, result.host_pool_group
        first, num_layers = kvcache.layer_num, kvcache.layer_num + pool.layer_num
        host_pool = assembler._build_mha_mla_host_pool(
            pool=pool,
            host_to_device_ratio=1.0,
            page_size=controller.page_size,
            layout=get_memory().hicache_mem_layout,
            allocator_type=assembler._get_allocator_type(),
            pool_label="filled",
            host_token_capacity=group.logical_size,
        )
        # loaded in the order in which a forward reads them
        controller.transfer_layer_id_max = num_layers
        controller.layer_done_counter = LayerDoneCounter(num_layers)
        pool.register_layer_transfer_counter(LayersBehind(controller.layer_done_counter, first))
        entry = assembler.build_pool_entry(
            name=FILLED,
            host_pool=host_pool,
            device_pool=pool,
            layer_mapping={first + layer: layer for layer in range(pool.layer_num)},
            transfer_layer_id_max=num_layers,
        )
        controller.register_host_pool_entry(entry)
        result.sidecars.append(SidecarPoolSpec(FILLED, PoolName.KV))
        result.pools_desc += " + what is filled in"
        return result


class LayersBehind:
    """SGLang's counter of layers that are loaded, as the pool sees it whose layers come after `first` others."""

    def __init__(self, counter: LayerDoneCounter, first: int) -> None:
        self._counter, self._first = counter, first

    @property
    def consumer_index(self) -> int:
        return int(self._counter.consumer_index)

    def wait_until(self, layer: int) -> None:
        self._counter.wait_until(self._first + layer)
