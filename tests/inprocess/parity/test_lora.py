"""Answers of a request with a LoRA adapter are those of the model with the adapter merged into its weights."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from safetensors.torch import load_file
from sglang.srt.lora import lora_overlap_loader
from sglang.srt.lora.lora_registry import LoRARef

from sglang_speed.errors import ConfigError
from sglang_speed.platforms.cpu import NEED_AN_ACCELERATOR
from tests import host
from tests.catalogue import (
    CHUNKS_OF_17,
    DEEP_BANDS,
    FASTKV,
    FASTKV_BANDS,
    MESSAGE_BANDS,
    NO_OVERLAP,
    NUM_LAYERS,
    POP_BANDS,
    POP_WITH_ANCHORS,
    RETRACTED,
    SETTINGS,
    SEVERAL_BANDS,
    STATE_BANDS,
    STOCK_BANDS,
    THINNED,
    Bands,
)
from tests.inprocess.parity.adapted import Adapted, AdaptedAsk
from tests.inprocess.parity.conftest import Checkpoints
from tests.inprocess.parity.csgmv_standin import csgmv_standin
from tests.inprocess.parity.expected import Ask, Expected, forget_anchors, prompt, tokens
from tests.inprocess.parity.flashinfer_standin import flashinfer_standin
from tests.inprocess.parity.recorded_graph import record_decode_graphs
from tests.scheduler_harness import SchedulerHarness, running_scheduler
from tests.tiny_adapters import ALL_LINEAR, ATTENTION, ENDS, TinyAdapter

pytestmark = pytest.mark.skipif(host.IS_OLDEST, reason="refused there, see test_refused_settings")

ADAPTERS = (
    TinyAdapter("all"),
    TinyAdapter("queries and values", ("q_proj", "v_proj"), rank=2, alpha=1, seed=1),
    TinyAdapter("with embedding and head", (*ALL_LINEAR, *ENDS), rank=3, seed=2),
    TinyAdapter("deep layers", (*ATTENTION, "down_proj"), rank=1, layers=(5, 6, 7), seed=3),
)
NAMES = (None, *(adapter.name for adapter in ADAPTERS))
BANDS = [
    *DEEP_BANDS[2::8],
    *STOCK_BANDS[1:],
    *SEVERAL_BANDS,
    *POP_BANDS[:3],
    *FASTKV_BANDS[:5],
    *MESSAGE_BANDS,
    Bands(NUM_LAYERS - 1, 9, 5),
]
SOME_CASES = [
    *product(
        ("no overlap, chunks of 17", "pages, chunks of 16", "no cache"), (Bands(6, 1, 16), POP_WITH_ANCHORS, FASTKV)
    ),
    *(("retracted", bands) for bands in (Bands(6, 1, 16), POP_WITH_ANCHORS, *STATE_BANDS)),
]


@pytest.fixture(scope="session")
def adapted(checkpoints: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Bands], Adapted]:
    @cache
    def make(bands: Bands) -> Adapted:
        return Adapted(checkpoints(bands), tmp_path_factory.mktemp("adapters"), ADAPTERS)

    return make


def mixed(lengths: tuple[int, ...], num_tokens: int = 5) -> list[AdaptedAsk]:
    """The same prompts of every adapter, which are in one batch."""
    return [(name, Ask(prompt(length, seed=length), num_tokens)) for length in lengths for name in NAMES]


@pytest.mark.parametrize("bands", BANDS, ids=str)
def test_cold_and_warm_answers_are_those_of_merged_weights(adapted: Callable[[Bands], Adapted], bands: Bands) -> None:
    """Of all adapters and none in one batch; in chunks, with scores; then warm, behind what was answered."""
    models = adapted(bands)
    asks = mixed((2, 5, 41)) + [(name, Ask(prompt(60, seed=1), 4, scored_from=40)) for name in NAMES]
    with running_scheduler(models.base.path, **models.settings(), **CHUNKS_OF_17) as engine:
        cold = models.answered(engine, asks)
        longer = [
            (name, Ask([*ask.prompt, *answer.output_ids, *tokens(3)], 5))
            for (name, ask), answer in zip(asks, cold, strict=True)
        ]
        warm = models.answered(engine, longer)
    assert any(answer.cached_tokens for answer in warm)


@pytest.mark.parametrize("bands", [Bands(6, 4, 3), POP_WITH_ANCHORS, *SEVERAL_BANDS[:1]], ids=str)
def test_anchors_that_are_lost_are_computed_with_the_adapter_of_their_request(
    adapted: Callable[[Bands], Adapted], bands: Bands
) -> None:
    """By themselves, in one batch with prompts of which nothing is known."""
    models, asks = adapted(bands), mixed((41, 50))
    longer = [(name, Ask([*ask.prompt, *tokens(9)], 5)) for name, ask in asks]
    for setting in (CHUNKS_OF_17, NO_OVERLAP):
        with running_scheduler(models.base.path, **models.settings(), **setting) as engine:
            models.answered(engine, asks)
            for some in (asks, longer):
                forget_anchors()
                answers = models.answered(engine, [*mixed((30,)), *some])
                assert all(answer.cached_tokens > 30 for answer in answers[len(NAMES) :])


@pytest.mark.parametrize("bands", STATE_BANDS[:2], ids=str)
def test_every_adapter_changes_what_is_said(adapted: Callable[[Bands], Adapted], bands: Bands) -> None:
    """Without this the comparisons of this file could hold by accident."""
    models, ask = adapted(bands), Ask(prompt(41, seed=41), 12)
    assert len({tuple(models.greedy(name, ask)) for name in NAMES}) == len(NAMES)


@pytest.mark.parametrize(("setting", "bands"), SOME_CASES, ids=str)
def test_settings_change_no_answer(adapted: Callable[[Bands], Adapted], setting: str, bands: Bands) -> None:
    models = adapted(bands)
    asks = mixed((3, 18, 75), num_tokens=7)
    asks += [(name, Ask(prompt(75, seed=75)[:50] + tokens(9), 6, when=3)) for name in NAMES]
    chosen = RETRACTED if setting == "retracted" else SETTINGS[setting]
    with running_scheduler(models.base.path, **models.settings(), **chosen) as engine:
        models.answered(engine, asks)
        models.answered(engine, asks[::-1])


@pytest.mark.parametrize("bands", [Bands(), POP_WITH_ANCHORS, FASTKV], ids=str)
def test_more_adapters_than_a_batch_holds_are_exact(adapted: Callable[[Bands], Adapted], bands: Bands) -> None:
    """Their weights take each other's places in the pool."""
    models = adapted(bands)
    settings = models.settings(max_loras_per_batch=2, **CHUNKS_OF_17)
    with running_scheduler(models.base.path, **settings) as engine:
        for seed in range(3):
            asks = [(NAMES[index * 3 % 5], Ask(prompt(7 + 9 * index, seed=seed), 4)) for index in range(10)]
            models.answered(engine, asks)


@pytest.mark.parametrize("bands", [Bands(6, 4, 3), POP_WITH_ANCHORS, FASTKV, THINNED], ids=str)
def test_an_adapter_that_comes_under_the_name_of_another_shares_nothing_with_it(
    checkpoints: Checkpoints, tmp_path: Path, bands: Bands
) -> None:
    """Loaded, unloaded and loaded again while others run: no anchor and no prefix of the one that went."""
    models = Adapted(checkpoints(bands), tmp_path, ADAPTERS[:1])
    asks = [(name, Ask(prompt(50, seed=5), 6)) for name in (None, "all")]
    with running_scheduler(models.base.path, **models.settings(max_lora_rank=8)) as engine:
        for seed in range(20, 23):
            cold = models.answered(engine, asks)
            warm = models.answered(engine, asks)
            assert cold[1].cached_tokens == 0 < warm[1].cached_tokens
            models.unload(engine, "all", when=4)
            models.add(TinyAdapter("all", rank=4 + seed % 3, seed=seed))
            models.load(engine, "all", when=8)
            models.answered(engine, [(None, Ask(prompt(33, seed=seed), 20))])


def test_adapters_of_a_chunked_prompt_and_of_its_decode_neighbours_are_kept_apart(
    adapted: Callable[[Bands], Adapted],
) -> None:
    models = adapted(Bands(4, 2, 16))
    asks: list[AdaptedAsk] = [(name, Ask(prompt(9, seed=number), 30)) for number, name in enumerate(NAMES)]
    asks += [(name, Ask(prompt(200, seed=number), 3, when=4)) for number, name in enumerate(NAMES[::-1])]
    for setting in (CHUNKS_OF_17, CHUNKS_OF_17 | NO_OVERLAP):
        with running_scheduler(models.base.path, **models.settings(), **setting) as engine:
            models.answered(engine, asks)


@pytest.mark.parametrize(
    ("bands", "sizes"),
    [(Bands(), None), *((bands, [1, 6, 16]) for bands in (Bands(), POP_WITH_ANCHORS, FASTKV, THINNED))],
    ids=str,
)
def test_the_backend_of_gpus_is_exact(
    adapted: Callable[[Bands], Adapted], bands: Bands, sizes: list[int] | None
) -> None:
    """Its plans of deep rows and of decode graphs, beside an attention backend of GPUs; kernels are stand-ins. sizes:
    of the batches of graphs, which those of requests are padded to."""
    models = adapted(bands)
    asks = [(name, replace(ask, when=index // 3)) for index, (name, ask) in enumerate(mixed((3, 41)))]
    asks += [(name, Ask(prompt(60, seed=1), 4, scored_from=40)) for name in NAMES]
    scheduler = running_scheduler(models.base.path, **models.settings(), **CHUNKS_OF_17)
    with csgmv_standin(), flashinfer_standin(), scheduler as engine:
        assert engine.scheduler.tp_worker.model_runner.lora_manager.lora_backend.name == "csgmv"
        graphs = record_decode_graphs(engine.scheduler, sizes) if sizes else None
        models.answered(engine, asks)
        models.answered(engine, asks[::-1])
        assert graphs is None or graphs.num_replays > 5


def test_adapters_of_the_embedding_or_the_head_alone_leave_nothing_behind(
    checkpoints: Checkpoints, tmp_path: Path
) -> None:
    """They take each other's only place."""
    adapters = [TinyAdapter(name, (name,), seed=number) for number, name in enumerate(ENDS)]
    models, ask = Adapted(checkpoints(Bands()), tmp_path, adapters), Ask(prompt(20), 6)
    with running_scheduler(models.base.path, **models.settings(max_loras_per_batch=1)) as engine:
        for name in ("embed_tokens", "lm_head", "embed_tokens", None, "lm_head"):
            models.answered(engine, [(name, ask)])


class Copied:
    """A copy that ends with the step of the scheduler in which it begins. now: gives the number of a step."""

    def __init__(self, now: Callable[[], int]) -> None:
        self.now, self.begun = now, now()

    def record(self, stream: Any) -> None: ...

    def synchronize(self) -> None: ...

    def query(self) -> bool:
        return self.now() != self.begun


@pytest.mark.parametrize("bands", [Bands(), POP_WITH_ANCHORS, FASTKV], ids=str)
def test_adapters_that_are_copied_while_others_run_are_exact(adapted: Callable[[Bands], Adapted], bands: Bands) -> None:
    """Their requests wait for the copy, which here is a stand-in for one on a stream of its own."""
    models, copies, engines = adapted(bands), list[Copied](), list[SchedulerHarness]()
    stream = SimpleNamespace(wait_event=copies.append)
    device = SimpleNamespace(
        Stream=lambda: stream,
        stream=lambda _: nullcontext(),
        current_stream=lambda: stream,
        Event=lambda: Copied(lambda: engines[0].feed.step),
    )
    torch_of_device = SimpleNamespace(get_device_module=lambda _: device)
    settings = models.settings(enable_lora_overlap_loading=True, max_loras_per_batch=3, max_loaded_loras=6)
    with (
        mock.patch.object(lora_overlap_loader, "torch", torch_of_device),
        mock.patch.dict(NEED_AN_ACCELERATOR, clear=True),
        running_scheduler(models.base.path, **settings, **CHUNKS_OF_17) as engine,
    ):
        engines.append(engine)
        models.answered(engine, mixed((3, 41)))
        models.answered(engine, mixed((41, 60)))
    assert len(copies) >= len(ADAPTERS)


@pytest.mark.parametrize(
    ("adapter", "config", "reason"),
    [
        (TinyAdapter("keys", ("k_proj",)), {}, "k_proj.lora_A.weight, one of 16 weights"),
        (TinyAdapter("up", ("up_proj",)), {}, "up_proj.lora_A.weight, one of 16 weights"),
        (TinyAdapter("another scale"), {"use_rslora": True}, "use_rslora=True in adapter_config.json"),
        (TinyAdapter("other ranks"), {"rank_pattern": {"q_proj": 2}}, "rank_pattern="),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_an_adapter_of_which_a_part_would_be_left_out_is_refused(
    checkpoints: Checkpoints, tmp_path: Path, adapter: TinyAdapter, config: dict[str, Any], reason: str
) -> None:
    """When it is loaded, and the server goes on; named on the command line, the server does not start."""
    models, ask = Adapted(checkpoints(Bands()), tmp_path, ADAPTERS[:1]), Ask(prompt(20), 4)
    path = adapter.write(tmp_path / "refused", models.base.model, **config)
    ref = LoRARef(lora_id="f" * 32, lora_name="refused", lora_path=str(path), pinned=False)
    with running_scheduler(models.base.path, **models.settings()) as engine:
        manager = engine.scheduler.tp_worker.model_runner.lora_manager
        for _ in range(2):
            result = manager.load_lora_adapter(ref)
            assert not result.success
            assert reason in result.error_message
            models.answered(engine, [("all", ask), (None, ask)])
    named = models.settings(lora_paths=[ref], lora_target_modules={"qkv_proj", "gate_up_proj", "o_proj", "down_proj"})
    with pytest.raises((ConfigError, RuntimeError), match=re.escape(reason)):
        running_scheduler(models.base.path, **named, max_lora_rank=4).__enter__()


@pytest.mark.parametrize("by_tensors", [False, True], ids=["reloaded", "sent"])
def test_new_weights_reach_what_adapters_are_added_to(
    checkpoints: Checkpoints, tmp_path: Path, by_tensors: bool
) -> None:
    """In every band, and in what is filled in."""
    models = Adapted(checkpoints(POP_WITH_ANCHORS), tmp_path / "old", ADAPTERS[:1])
    other = Expected(tmp_path / "other", POP_WITH_ANCHORS, seed=1)
    tensors = list(load_file(other.path / "model.safetensors").items())
    asks = [(name, Ask(prompt(40), 6)) for name in (None, "all")]
    with running_scheduler(models.base.path, **models.settings()) as engine:
        updater = engine.scheduler.tp_worker.model_runner.weight_updater
        models.answered(engine, asks)
        if by_tensors:
            assert updater.update_weights_from_tensor(tensors)[0]
        else:
            assert updater.update_weights_from_disk(str(other.path), "auto")[0]
        assert engine.scheduler.flush_cache()
        models.move_to(other)
        models.answered(engine, asks)
