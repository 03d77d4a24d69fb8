"""Host memory pools of the hierarchical cache where the device is the same CPU: ordinary memory, copied by PyTorch.

Owns how rows are copied. Which rows are copied, and when, is SGLang's; so are the pools' layouts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sglang.srt.mem_cache.pool_host.base import HICACHE_HOST_MEMORY_RESERVE_BYTES
from torch import Tensor

RESERVED_BYTES = 1 << 30
"""What pools leave of the machine's free memory. SGLang leaves 10 GiB, more than many a laptop has."""


def leave_less(available_bytes: int, **_: Any) -> int:
    """Hook after available_host_memory_bytes, of which SGLang reserves its share."""
    return available_bytes + HICACHE_HOST_MEMORY_RESERVE_BYTES - RESERVED_BYTES


def in_ordinary_memory(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Hook before HostKVCache.__init__: pinned memory needs a driver."""
    return args, {**kwargs, "pin_memory": False}


def load_layer(
    pool: Any,
    device_pool: Any,
    host_indices: Tensor,
    device_indices: Tensor,
    layer_id: int,
    io_backend: str,
    *,
    is_draft: bool = False,
) -> None:
    """In place of HostKVCache.load_to_device_per_layer_physical: one layer, from the host's rows to the device's."""
    for host, device in _buffers(pool, layer_id):
        device.index_copy_(0, device_indices, host[_places(pool, host_indices)])


def back_up_layers(pool: Any, device_pool: Any, host_indices: Tensor, device_indices: Tensor, io_backend: str) -> None:
    """In place of HostKVCache.backup_from_device_all_layer_physical: all layers, from device's rows to host's."""
    for layer in range(pool.layer_num):
        for host, device in _buffers(pool, layer):
            host[_places(pool, host_indices)] = device.index_select(0, device_indices)


def _buffers(pool: Any, layer: int) -> Iterator[tuple[Tensor, Tensor]]:
    """What the host and the device have of a layer: keys and values, or latents.

    The host's are [num_slots, heads, numbers], or [num_pages, page_size, heads, numbers].
    """
    if hasattr(pool, "k_data_refs"):
        yield pool.k_data_refs[layer], pool.device_k_buffers[layer]
        yield pool.v_data_refs[layer], pool.device_v_buffers[layer]
        return
    by_layer = pool.kv_buffer if pool.layout == "layer_first" else pool.kv_buffer.transpose(0, 1)
    yield by_layer[layer], pool.device_kv_buffers[layer]


def _places(pool: Any, indices: Tensor) -> tuple[Tensor, ...]:
    """Where slots lie in a layer's buffer."""
    if pool.layout != "page_first_direct":
        return (indices,)
    return indices // pool.page_size, indices % pool.page_size
