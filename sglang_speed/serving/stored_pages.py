"""Pages in a store behind the host's memory: what they are keyed on beside their tokens, and when they may be used.

SGLang keys a page on its tokens, their namespace, and the name that a model is served under. What a page holds follows
from more: the layers that are kept, the weights, the numbers and their order. All of that goes into the name here, so
that a page of anything else is not found. New weights would make what is stored wrong, so they are refused.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed
from sglang.srt.distributed.parallel_state import get_tp_group
from sglang.srt.managers import io_struct
from torch import Tensor, nn

from sglang_speed.features.hierarchical_cache import KNOWS_NO_WEIGHTS, STORES
from sglang_speed.served import ServedModel, served
from sglang_speed.serving.new_weights import NOT_COMPUTED_WITH

logger = logging.getLogger(__name__)

FORMAT = 1
"""Of what is written into pages by this package; another one makes all keys others."""
BLOCK = 1 << 22
"""Numbers that are summed at once."""


def name_what_pages_hold(name: str | None, model_name: str | None, host_pool: Any) -> str | None:
    """Hook after storage_model_name: the name that stores key pages on."""
    model = served()
    return None if model is None else f"{name or 'model'}-{identity_of(model, host_pool)}"


def identity_of(model: ServedModel, host_pool: Any) -> str:
    """A digest of all that decides the bytes of a page of given tokens, the same on all ranks."""
    config, pool = model.config, model.kv_pool
    facts = {
        "format": FORMAT,
        "policy": config.policy,
        "cutoff": config.prefill_layers,
        "layers": [pool.layer_num, *(band.allocator.get_kvcache().layer_num for band in model.deep_bands)],
        "fills": config.fills_deep_layers,
        "states": config.keeps_states,
        "model": _computed_with(model.model_config.hf_config.to_dict()),
        "dtype": str(model.model_config.dtype),
        "page": [str(host_pool.dtype), host_pool.layout, host_pool.page_size, host_pool.get_size_per_token()],
        "weights": _of_all_ranks(digest_of_weights(model.weights)),
    }
    return _digest(json.dumps(facts, sort_keys=True, default=str).encode())


def _computed_with(value: Any) -> Any:
    """A configuration without what does not decide what is computed; `speed` is told by itself."""
    if not isinstance(value, dict):
        return value
    left_out = {*NOT_COMPUTED_WITH, "speed"}
    return {str(key): _computed_with(each) for key, each in value.items() if key not in left_out}


def _of_all_ranks(digest: str) -> list[str]:
    group = get_tp_group()
    digests: list[str] = [digest] * group.world_size
    if group.world_size > 1:
        torch.distributed.all_gather_object(digests, digest, group=group.cpu_group)
    return digests


def digest_of_weights(model: nn.Module) -> str:
    """A digest of every weight as it is in memory, its name, shape and type; the device sums, nothing is copied.

    It is not meant to withstand forgery: two models that were trained apart differ in it, and so do two steps of one
    training.
    """
    found = [
        (name, tuple(weight.shape), str(weight.dtype), _sums(weight)) for name, weight in model.state_dict().items()
    ]
    sums = torch.stack([each for *_, each in found]).cpu().tolist()
    named = [(*what, each) for (*what, _), each in zip(found, sums, strict=True)]
    return _digest(repr(sorted(named, key=lambda entry: str(entry[0]))).encode())


def _sums(weight: Tensor) -> Tensor:
    """Two sums over the bytes of a tensor, int64 [2] on its device: of its words, and of these by their places."""
    total = torch.zeros(2, dtype=torch.int64, device=weight.device)
    for start, words in _words(weight):
        places = torch.arange(start + 1, start + 1 + len(words), device=weight.device) * 0x9E3779B1
        total += torch.stack([words.sum(), (words * (places ^ (places >> 15))).sum()])
    return total


def _words(weight: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The bytes of a tensor as numbers, int64, in blocks, and where each block begins."""
    flat = weight.detach().contiguous().flatten()
    size = min(flat.element_size(), 8)
    as_integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[size]
    for start in range(0, len(flat), BLOCK):
        block = flat[start : start + BLOCK]
        yield start, (block.view(as_integers) if block.dtype != torch.bool else block).to(torch.int64)


def _digest(what: bytes) -> str:
    return hashlib.sha256(what).hexdigest()[:32]


def read_whole_page(
    original: Callable[..., Tensor | None], store: Any, key: str, target_location: Tensor, target_sizes: Any = None
) -> Tensor | None:
    """Hook around HiCacheFile.get: a file of another length is no page; it goes, and is written again."""
    path = os.path.join(store.file_path, f"{store._get_suffixed_key(key)}.bin")
    expected = target_location.numel() * target_location.element_size()
    if served() is not None and os.path.exists(path) and os.path.getsize(path) != expected:
        logger.warning(f"sglang_speed: {path} has {os.path.getsize(path)} bytes, and a page has {expected}: removed")
        os.remove(path)
    return original(store, key, target_location, target_sizes)


def attach_proven_store(original: Callable[..., Any], scheduler: Any, request: Any) -> Any:
    """Hook around Scheduler.attach_hicache_storage_wrapped: what is refused at start-up is refused while serving.

    The caches are emptied first: what they hold may be of weights that have been replaced.
    """
    if served() is None or not scheduler.enable_hierarchical_cache:
        return original(scheduler, request)
    store, reason = request.hicache_storage_backend, None
    if store not in STORES:
        reason = f"hicache_storage_backend={store!r} is not proven with a SPEED model; choose {' or '.join(STORES)}"
    elif scheduler.enable_lora:
        reason = f"{KNOWS_NO_WEIGHTS}; serve without --enable-lora and attach the store then"
    elif scheduler.weight_updater._session is not None:
        reason = "new weights are on their way; attach the store when they have come"
    elif not scheduler.flush_cache():
        reason = "requests are running or waiting; attach the store when they have ended"
    if reason is None:
        return original(scheduler, request)
    return io_struct.AttachHiCacheStorageReqOutput(success=False, message=f"sglang_speed: {reason}")


def keep_weights_of_store(original: Callable[..., Any], manager: Any, request: Any) -> Any:
    """Hook around SchedulerWeightUpdaterManager's ways to begin with new weights: none while a store is attached, whose
    pages are those of the weights that it was attached with."""
    if served() is None or not manager.scheduler.tree_cache.enable_storage:
        return original(manager, request)
    answer = getattr(io_struct, type(request).__name__.replace("Input", "Output"))
    return answer(
        success=False,
        message="sglang_speed: pages in the store of the hierarchical cache belong to the weights that are served; "
        "detach it first (DELETE /hicache/storage-backend), and attach it again afterwards",
    )
