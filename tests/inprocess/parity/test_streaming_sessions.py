"""A streaming session keeps its row between turns, and each turn has the deep tokens of its own prompt: what it says is
what the reference says to all of the conversation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
from sglang.srt.managers import io_struct

from sglang_speed.kv_pool.request_pool import BandedReqToTokenPool
from sglang_speed.served import active_pool
from tests import host
from tests.catalogue import (
    FASTKV,
    FOUR_ANCHORS,
    LONG_TAIL,
    MIXED,
    NO_OVERLAP,
    PAGES,
    POP_WITH_ANCHORS,
    RETRACTED,
    THINNED,
    WITH_MESSAGES,
    Bands,
)
from tests.inprocess.parity.conftest import Checkpoints
from tests.inprocess.parity.expected import Ask, Expected, forget_anchors, prompt, submit, tokens
from tests.scheduler_harness import SchedulerHarness, running_scheduler

pytestmark = pytest.mark.skipif(host.IS_OLDEST, reason="refused there")

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "mixed chunks": MIXED | {"chunked_prefill_size": 16},
    "pages, no overlap": PAGES | NO_OVERLAP | {"chunked_prefill_size": 32},
    "retracted": RETRACTED | {"chunked_prefill_size": 16},
}
TURNS = [(40, 5), (1, 7), (23, 1), (2, 9), (70, 6)]
"""Tokens that a turn adds, and that it generates: some fewer than a tail has, some in several chunks."""


def pool() -> BandedReqToTokenPool:
    found = active_pool()
    assert found is not None
    return found


@contextmanager
def serving_sessions(expected: Expected, **settings: Any) -> Iterator[SchedulerHarness]:
    """A scheduler whose pools are not clean after a run as long as a session is open; they are in the end."""
    with running_scheduler(expected.path, enable_streaming_session=True, **settings) as engine:
        with mock.patch.object(engine, "check_pools"):
            yield engine
        engine.run()


def open_session(engine: SchedulerHarness, name: str) -> None:
    engine.send(io_struct.OpenSessionReqInput(capacity_of_str_len=4096, session_id=name, streaming=True))


def close_session(engine: SchedulerHarness, name: str) -> None:
    engine.send(io_struct.CloseSessionReqInput(session_id=name))


class Chat:
    """A conversation in a session. history: all of it so far. fields: more of what its requests say."""

    def __init__(self, expected: Expected, engine: SchedulerHarness, name: str, seed: int) -> None:
        self.expected, self.engine, self.name, self.seed = expected, engine, name, seed
        self.history: list[int] = []
        self.fields: Mapping[str, Any] = {}
        open_session(engine, name)

    def say(self, num_tokens: int, num_new: int) -> tuple[str, Ask]:
        added = tokens(num_tokens, self.seed) if self.history else prompt(num_tokens, self.seed)
        fields = {"session_params": io_struct.SessionParams(id=self.name), **self.fields}
        name = submit(self.engine, Ask(added, num_new, fields=fields))
        self.history += added
        return name, Ask(list(self.history), num_new)

    def hear(self, name: str, ask: Ask) -> None:
        answer = self.engine.answers[name]
        self.expected.require(answer, ask)
        self.history += answer.output_ids


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(
    "bands", [Bands(), LONG_TAIL, FOUR_ANCHORS, POP_WITH_ANCHORS, FASTKV, THINNED, WITH_MESSAGES], ids=str
)
def test_every_turn_is_the_references(checkpoints: Checkpoints, bands: Bands, name: str) -> None:
    """Two conversations that begin alike, among requests without a session; no turn leaves deep slots behind."""
    expected = checkpoints(bands)
    with serving_sessions(expected, **SETTINGS[name]) as engine:
        chats = [Chat(expected, engine, "one", 0), Chat(expected, engine, "two", 0)]
        for turn in TURNS:
            said = [chat.say(*turn) for chat in chats]
            expected.answered(engine, [Ask(prompt(40), 4), Ask(prompt(33, seed=2), 9)])
            for chat, (request, ask) in zip(chats, said, strict=True):
                chat.hear(request, ask)
            pool().check_integrity()
            assert (pool().deep_bands[0].num_in_use, len(pool().resting)) == (0, 2)
        close_session(engine, "one")
        close_session(engine, "two")
        engine.run()
        assert not pool().resting


@pytest.mark.parametrize("bands", [LONG_TAIL, POP_WITH_ANCHORS, FASTKV], ids=str)
def test_a_turn_reuses_what_the_session_kept(checkpoints: Checkpoints, bands: Bands) -> None:
    """All but its own tail."""
    expected = checkpoints(bands)
    with serving_sessions(expected) as engine:
        chat = Chat(expected, engine, "one", 0)
        for turn in ((40, 30), (40, 3)):
            request, ask = chat.say(*turn)
            engine.run()
            chat.hear(request, ask)
        assert engine.answers[request].cached_tokens == 69
        close_session(engine, "one")
        engine.run()


@pytest.mark.parametrize("bands", [Bands(), THINNED], ids=str)
def test_a_session_goes_on_after_an_aborted_turn_and_after_its_anchors_are_gone(
    checkpoints: Checkpoints, bands: Bands
) -> None:
    expected = checkpoints(bands)
    with serving_sessions(expected, chunked_prefill_size=16) as engine:
        chat = Chat(expected, engine, "one", 0)
        chat.hear(*[chat.say(30, 6), engine.run()][0])
        before = list(chat.history)
        for moment in (2, 6):
            request, _ = chat.say(50, 40)
            engine.abort(request, when=moment)
            engine.run()
            assert engine.answers[request].was_aborted
            pool().check_integrity()
            chat.history = list(before)
            said = chat.say(5, 4)
            engine.run()
            chat.hear(*said)
            before = list(chat.history)
        forget_anchors()
        said = chat.say(9, 4)
        engine.run()
        chat.hear(*said)
        assert engine.answers[said[0]].cached_tokens >= len(before) - 8
        close_session(engine, "one")
        engine.run()
        assert not pool().resting


@pytest.mark.parametrize("bands", [Bands(), POP_WITH_ANCHORS, FASTKV, THINNED], ids=str)
def test_what_a_session_marks_in_the_tree_outlives_what_others_compute(checkpoints: Checkpoints, bands: Bands) -> None:
    """Others fill the pool between its turns, and take their own KV first; when it is closed, also its own."""
    expected = checkpoints(bands)
    settings = {"enable_session_radix_cache": True, "chunked_prefill_size": 32}
    with running_scheduler(expected.path, deep_tokens=400, max_total_tokens=512, **settings) as engine:
        others = [Ask(prompt(150, seed=seed), 2, when=9 * seed) for seed in range(4)]
        before, num_kept = prompt(40), 0
        for num_tokens, num_new in TURNS:
            ask = Ask([*before, *tokens(num_tokens)], num_new, fields={"session_id": "one"})
            (answer,) = expected.answered(engine, [ask])
            assert answer.cached_tokens >= num_kept
            before, num_kept = [*ask.prompt, *answer.output_ids], len(ask.prompt) - 8  # the window of FastKV
            expected.answered(engine, others)
        engine.send(io_struct.CloseSessionReqInput(session_id="one"))
        expected.answered(engine, others)
        assert expected.answered(engine, [Ask(before, 2)])[0].cached_tokens < 8
