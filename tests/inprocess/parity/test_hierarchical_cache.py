"""Prefixes that come back from the host's memory are as good as those that never left the device, in all bands, however
late they come."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from sglang.srt.managers import io_struct

from tests.host import IS_OLDEST

if IS_OLDEST:
    pytest.skip("the hierarchical cache is refused there", allow_module_level=True)

from tests.catalogue import (
    CHUNKS_OF_16,
    CHUNKS_OF_17,
    FASTKV,
    FASTKV_TWICE,
    NO_OVERLAP,
    PAGES,
    POP,
    POP_WITH_ANCHORS,
    POP_WITH_MESSAGES,
    RETRACTED,
    SEVERAL_BANDS,
    STOCK_BANDS,
    THINNED,
    WITH_MESSAGES,
    Bands,
)
from tests.inprocess.parity.conftest import Checkpoints
from tests.inprocess.parity.expected import Ask, Expected, forget_anchors, prompt, tokens
from tests.inprocess.parity.late_loads import late_loads
from tests.scheduler_harness import Answer, SchedulerHarness, running_scheduler

HOST_CACHE = {"enable_hierarchical_cache": True, "hicache_ratio": 8.0, "max_total_tokens": 384, "deep_tokens": 300}
"""The device holds a few prompts, the host all."""
BANDS = [
    Bands(),
    Bands(4, 4, 2),
    SEVERAL_BANDS[0],
    POP,
    POP_WITH_ANCHORS,
    Bands(1, 0, 16, "pop"),
    FASTKV,
    FASTKV_TWICE,
    THINNED,
    WITH_MESSAGES,
    POP_WITH_MESSAGES,
    STOCK_BANDS[0],
]
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "chunks of 17": CHUNKS_OF_17,
    "no overlap": NO_OVERLAP,
    "pages, chunks of 16": PAGES | CHUNKS_OF_16,
    "retracted": RETRACTED,
}
LAYOUTS = {
    "layer_first": {"hicache_mem_layout": "layer_first"},
    "page_first_direct": {"hicache_mem_layout": "page_first_direct", "page_size": 16},
    "direct": {"hicache_io_backend": "direct", "page_size": 16},
    "write_back": {"hicache_write_policy": "write_back"},
    "write_through_selective": {"hicache_write_policy": "write_through_selective"},
    "a size": {"hicache_size": 1},
}
NUM_PROMPTS, PROMPT_LEN = 9, 90


def rounds() -> list[list[Ask]]:
    """More prompts than the device holds, three times; at first each comes again at once, which some write policies
    want; the last time they go on where they ended."""
    asks = [Ask(prompt(PROMPT_LEN, seed=number, first=40 + number), 4) for number in range(NUM_PROMPTS)]
    twice = [replace(ask, when=3 * index) for index, ask in enumerate(asks) for _ in range(2)]
    longer = [Ask([*ask.prompt, *tokens(30, seed=2)], 4, when=index) for index, ask in enumerate(asks)]
    return [twice, asks, longer]


def num_host_slots(engine: SchedulerHarness) -> tuple[int, int]:
    """Free ones, and all."""
    pool = engine.scheduler.tree_cache.cache_controller.mem_pool_host
    return pool.available_size(), pool.logical_size


def require_hits(expected: Expected, settings: Mapping[str, Any], **more: Any) -> None:
    with late_loads() as late, running_scheduler(expected.path, **{**HOST_CACHE, **settings, **more}) as engine:
        warm = list[list[Answer]]()
        for asks in rounds():
            warm.append(expected.answered(engine, asks))
            forget_anchors()
        del warm[0]
        num_hits = [sum(answer.cached_tokens > PROMPT_LEN // 2 for answer in answers) for answers in warm]
        assert num_hits == [NUM_PROMPTS] * 2
        assert len(late.loads) >= NUM_PROMPTS // 2  # several requests of a pass are loaded together
        assert late.num_waits >= len(late.loads)
        engine.flush()
        free, size = num_host_slots(engine)
        assert free == size


SOME_BANDS = (POP_WITH_ANCHORS, FASTKV, THINNED)


@pytest.mark.parametrize(
    ("name", "bands"),
    [*(("chunks of 17", bands) for bands in BANDS), *product(list(SETTINGS)[1:], SOME_BANDS)],
    ids=str,
)
def test_what_was_evicted_comes_back_exactly(checkpoints: Checkpoints, name: str, bands: Bands) -> None:
    require_hits(checkpoints(bands), SETTINGS[name])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bands", [POP_WITH_MESSAGES, FASTKV], ids=str)
def test_any_layout_and_write_policy_is_exact(checkpoints: Checkpoints, bands: Bands, layout: str) -> None:
    require_hits(checkpoints(bands), CHUNKS_OF_16, **LAYOUTS[layout])


# Prefixes that come back from files


def with_files(directory: Path, **settings: Any) -> dict[str, Any]:
    """Settings of a scheduler with a store in a directory, that waits for what it finds there."""
    config = {"file_storage_path": str(directory), "prefetch_threshold": 16}
    return {
        "enable_hierarchical_cache": True,
        "hicache_ratio": 4.0,
        "max_total_tokens": 1024,
        "deep_tokens": 300,
        "served_model_name": "the same",  # which is all that SGLang keys a page on, beside its tokens
        "hicache_storage_backend": "file",
        "hicache_storage_prefetch_policy": "wait_complete",
        "hicache_storage_backend_extra_config": json.dumps(config),
        **settings,
    }


def asked(expected: Expected, settings: Mapping[str, Any], asks: list[Ask]) -> list[int]:
    """How many tokens each prompt reuses in a scheduler of its own."""
    with late_loads(), running_scheduler(expected.path, **settings) as engine:
        first = expected.answered(engine, asks[:1])
        return [answer.cached_tokens for answer in [*first, *expected.answered(engine, asks[1:])]]


def some_prompts(**fields: Any) -> list[Ask]:
    return [Ask(prompt(100, seed=number), 4, fields=fields) for number in range(4)]


@pytest.mark.parametrize("settings", [CHUNKS_OF_17, PAGES], ids=str)
@pytest.mark.parametrize("bands", [Bands(), POP, POP_WITH_MESSAGES, FASTKV, THINNED, STOCK_BANDS[0]], ids=str)
def test_what_a_server_stored_another_one_finds(
    checkpoints: Checkpoints, tmp_path: Path, bands: Bands, settings: Mapping[str, Any]
) -> None:
    expected, served_from = checkpoints(bands), with_files(tmp_path, **settings)
    assert sum(asked(expected, served_from, some_prompts())) < 16
    assert all(found >= 80 for found in asked(expected, served_from, some_prompts()))


OTHERS: Mapping[str, tuple[Bands, Mapping[str, Any]]] = {
    "another cutoff": (Bands(4), {}),
    "another policy": (POP, {}),
    "states beside it": (WITH_MESSAGES, {}),
    "all layers": (STOCK_BANDS[0], {}),
    "pages of another size": (Bands(), {"page_size": 2}),
    "another layout": (Bands(), {"hicache_mem_layout": "layer_first"}),
    "numbers of another kind": (Bands(), {"kv_cache_dtype": "fp8_e5m2"}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_pages_of_anything_else_are_not_found(checkpoints: Checkpoints, tmp_path: Path, name: str) -> None:
    asked(checkpoints(Bands()), with_files(tmp_path), some_prompts())
    bands, settings = OTHERS[name]
    if "kv_cache_dtype" in settings:  # what it answers is rounded
        with late_loads(), running_scheduler(checkpoints(bands).path, **with_files(tmp_path, **settings)) as engine:
            assert sum(engine.ask(ask.prompt, 2).cached_tokens for ask in some_prompts()) < 16
    else:
        assert sum(asked(checkpoints(bands), with_files(tmp_path, **settings), some_prompts())) < 16


def test_pages_of_other_weights_are_not_found(checkpoints: Checkpoints, tmp_path: Path) -> None:
    """The same names, shapes and configuration."""
    asked(checkpoints(Bands()), with_files(tmp_path / "store"), some_prompts())
    other = Expected(tmp_path / "other", Bands(), seed=1)
    assert sum(asked(other, with_files(tmp_path / "store"), some_prompts())) < 16


@pytest.mark.parametrize("fields", [{"extra_key": "another"}, {"cache_salt": "another"}], ids=str)
def test_pages_of_another_namespace_are_not_found(
    checkpoints: Checkpoints, tmp_path: Path, fields: Mapping[str, Any]
) -> None:
    expected, settings = checkpoints(Bands()), with_files(tmp_path)
    asked(expected, settings, some_prompts())
    assert sum(asked(expected, settings, some_prompts(**fields))) < 16
    assert all(found >= 80 for found in asked(expected, settings, some_prompts(**fields)))


@pytest.mark.parametrize("change", [lambda page: page[:-4], lambda page: page + page[:4], lambda page: b""])
def test_a_file_of_another_length_is_no_page(checkpoints: Checkpoints, tmp_path: Path, change: Any) -> None:
    expected, settings = checkpoints(Bands()), with_files(tmp_path)
    asked(expected, settings, some_prompts())
    for path in tmp_path.glob("*.bin"):
        path.write_bytes(change(path.read_bytes()))
    assert sum(asked(expected, settings, some_prompts())) < 16
    assert all(found >= 80 for found in asked(expected, settings, some_prompts()))


def test_a_store_is_attached_and_weights_are_kept(checkpoints: Checkpoints, tmp_path: Path) -> None:
    """A store that was refused at start-up is refused while serving, too."""
    expected, told = checkpoints(Bands()), list[Any]()
    settings = with_files(tmp_path) | {"hicache_storage_backend": None}
    with running_scheduler(expected.path, **settings) as engine:
        engine.scheduler.ipc_channels.send_to_tokenizer.receive = told.append
        expected.answered(engine, some_prompts())
        for store in ("mooncake", "file"):
            config = json.dumps({"file_storage_path": str(tmp_path), "prefetch_threshold": 16})
            engine.send(
                io_struct.AttachHiCacheStorageReqInput(
                    hicache_storage_backend=store, hicache_storage_backend_extra_config_json=config
                )
            )
            engine.run()
        engine.send(io_struct.BeginWeightUpdateReqInput())
        engine.run()
        expected.answered(engine, some_prompts())
    assert [each.success for each in told] == [False, True, False]
    assert "hicache_storage_backend='mooncake' is not proven" in told[0].message
    assert "detach it first" in told[2].message
    assert all(found >= 80 for found in asked(expected, with_files(tmp_path), some_prompts()))
