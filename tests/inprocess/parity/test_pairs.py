"""Features that change which rows a batch has, or who keeps KV, change no answer together, two of them or all that can
be: cold, warm, behind what was answered, in chunks, among others, and retracted."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from sglang_speed.features.combinations import PROVEN_TOGETHER
from tests import host

if host.IS_OLDEST:
    pytest.skip("all but mixed chunks are refused there", allow_module_level=True)

from tests.catalogue import CHUNKS_OF_16, MIXED, POP_WITH_ANCHORS, RETRACTED, SHAPE, THINNED, Bands
from tests.inprocess.parity.adapted import Adapted, AdaptedAsk
from tests.inprocess.parity.conftest import Checkpoints
from tests.inprocess.parity.drafts import NGRAM, drafting_scheduler, require_drafts_of_both_kinds, standalone
from tests.inprocess.parity.expected import Ask, prompt, tokens
from tests.inprocess.parity.late_loads import late_loads
from tests.inprocess.parity.test_mixed_chunks import prefills_counted
from tests.inprocess.parity.test_quantized import Quantized
from tests.inprocess.parity.test_streaming_sessions import TURNS, Chat, close_session
from tests.quantized import FORMATS
from tests.scheduler_harness import Answer, SchedulerHarness, running_scheduler
from tests.tiny_adapters import ALL_LINEAR, ENDS, TinyAdapter
from tests.tiny_models import make_tiny_model

ADAPTERS = (TinyAdapter("all", (*ALL_LINEAR, *ENDS)), TinyAdapter("queries", ("q_proj", "v_proj"), rank=2, seed=1))
NAMES = (None, *(adapter.name for adapter in ADAPTERS))
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "--enable-lora": {},  # adapters have some of their own
    "--enable-hierarchical-cache": {
        "enable_hierarchical_cache": True,
        "hicache_ratio": 8.0,
        "max_total_tokens": 512,
        "deep_tokens": 400,
    },
    "NGRAM": NGRAM,
    "STANDALONE": {},
    "--enable-mixed-chunk": MIXED,
    "--enable-streaming-session": {"enable_streaming_session": True},
    "quantized weights": {},
}
BESIDE_ALL = ("--enable-lora", "--enable-hierarchical-cache", "--enable-streaming-session", "quantized weights")
ALL_TOGETHER = ((*BESIDE_ALL, "NGRAM"), (*BESIDE_ALL, "--enable-mixed-chunk"))
CASES = [
    *((several, POP_WITH_ANCHORS, CHUNKS_OF_16) for several in (*PROVEN_TOGETHER, *ALL_TOGETHER)),
    *((several, THINNED, CHUNKS_OF_16 | RETRACTED) for several in ALL_TOGETHER),
]
SLOW_CASES = [
    *((pair, Bands(4, 1, 16), CHUNKS_OF_16) for pair in PROVEN_TOGETHER),
    *((pair, THINNED, CHUNKS_OF_16 | RETRACTED) for pair in PROVEN_TOGETHER),
]

Witness = Callable[[Sequence[Answer]], None]
"""AssertionError unless a feature took part in some answers."""


@pytest.fixture(scope="session")
def models(checkpoints: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Bands, bool], Adapted]:
    """models(bands, quantized)"""

    @cache
    def make(bands: Bands, quantized: bool) -> Adapted:
        base = checkpoints(bands)
        if quantized:
            base = Quantized(tmp_path_factory.mktemp("quantized"), bands, FORMATS["gptq"], "llama")
        return Adapted(base, tmp_path_factory.mktemp("adapters"), ADAPTERS)

    return make


@pytest.fixture(scope="session")
def draft_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of the models of the catalogue at full depth: right often, not always."""
    return make_tiny_model(tmp_path_factory.mktemp("draft"), **SHAPE)


@contextmanager
def mixing(engine: SchedulerHarness) -> Iterator[Witness]:
    with prefills_counted(engine) as seen:

        def require(_: Sequence[Answer]) -> None:
            assert seen["mixed"] >= 3, seen

        yield require


@contextmanager
def loading(_: SchedulerHarness) -> Iterator[Witness]:
    with late_loads() as late:

        def require(_: Sequence[Answer]) -> None:
            assert len(late.loads) >= 3

        yield require


@contextmanager
def drafting(_: SchedulerHarness) -> Iterator[Witness]:
    yield require_drafts_of_both_kinds


WITNESSES: Mapping[str, Callable[[SchedulerHarness], AbstractContextManager[Witness]]] = {
    "--enable-mixed-chunk": mixing,
    "--enable-hierarchical-cache": loading,
    "NGRAM": drafting,
    "STANDALONE": drafting,
}


@contextmanager
def serving(
    models: Adapted, features: Sequence[str], settings: Mapping[str, Any], draft_model: Path
) -> Iterator[tuple[SchedulerHarness, list[Witness]]]:
    """NGRAM's drafts are verified with the overlap schedule where nobody is retracted, and without it otherwise."""
    is_overlapped = "NGRAM" in features and "retract_every" not in settings
    chosen = {**dict(ChainMap(*(dict(SETTINGS[one]) for one in features))), **settings}
    if "--enable-lora" in features:
        chosen |= models.settings()
    if "STANDALONE" in features:
        chosen |= standalone(draft_model)
    drafts = {"NGRAM", "STANDALONE"} & {*features}
    start = partial(drafting_scheduler, overlap=is_overlapped) if drafts else running_scheduler
    with start(models.base.path, **chosen) as engine, ExitStack() as stack:
        yield engine, [stack.enter_context(WITNESSES[one](engine)) for one in features if one in WITNESSES]


def rounds(names: Sequence[str | None]) -> list[list[AdaptedAsk]]:
    """More prompts than the device holds beside a hierarchical cache, one after the other; then all again, and then
    longer ones, in which there is more to draft."""
    seeds = range(12 // len(names))
    said = [(name, (prompt(20, seed=seed, first=40 + seed) * 4)[:70]) for seed in seeds for name in names]
    cold = [(name, Ask(one, 6, when=2 * index)) for index, (name, one) in enumerate(said)]
    again = [(name, Ask(one, 9, when=index)) for index, (name, one) in enumerate(said)]
    longer = [(name, Ask([*one, *tokens(30, seed=2)], 6, when=index)) for index, (name, one) in enumerate(said)]
    return [cold, again, longer]


def converse(models: Adapted, engine: SchedulerHarness, names: Sequence[str | None]) -> list[Answer]:
    """Two conversations that begin alike, among other requests; the second one has another adapter in each turn."""
    chats, answers = [Chat(models.base, engine, name, 0) for name in ("one", "two")], list[Answer]()
    with mock.patch.object(engine, "check_pools"):
        for number, turn in enumerate(TURNS):
            said = []
            for chat, name in zip(chats, (names[-1], names[number // 2 % len(names)]), strict=True):
                chat.expected, chat.fields = models.reference(name), models.fields(name)
                said.append(chat.say(*turn))
            answers += models.answered(engine, [(name, Ask(prompt(40), 6)) for name in names])
            for chat, (request, ask) in zip(chats, said, strict=True):
                chat.hear(request, ask)
                answers.append(engine.answers[request])
            assert number == 0 or engine.answers[said[0][0]].cached_tokens > 0
        close_session(engine, "one")
        close_session(engine, "two")
    engine.run()
    return answers


@pytest.mark.parametrize(
    ("features", "bands", "settings"),
    [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW_CASES)],
    ids=str,
)
def test_features_change_no_answer_together(
    models: Callable[[Bands, bool], Adapted],
    draft_model: Path,
    features: Sequence[str],
    bands: Bands,
    settings: Mapping[str, Any],
) -> None:
    served = models(bands, "quantized weights" in features)
    names = NAMES if "--enable-lora" in features else (None,)
    with serving(served, features, settings, draft_model) as (engine, witnesses):
        answers = [answer for asks in rounds(names) for answer in served.answered(engine, asks)]
        assert any(answer.cached_tokens > 40 for answer in answers)
        if "--enable-streaming-session" in features:
            answers += converse(served, engine, names)
        for require in witnesses:
            require(answers)
