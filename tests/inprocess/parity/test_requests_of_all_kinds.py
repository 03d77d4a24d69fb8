"""Requests that end early, stream, belong to a session, bring embeddings, fill the context, or outlive the weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from sglang.srt.managers import io_struct
from sglang.srt.managers.embed_types import PositionalEmbeds

from sglang_speed.served import active_pool
from tests.catalogue import Bands
from tests.inprocess.parity.expected import Ask, Expected, prompt, tokens
from tests.scheduler_harness import running_scheduler


@pytest.mark.parametrize("overlap", [True, False], ids=["overlap", "no overlap"])
def test_what_ends_at_a_stop_token_leaves_a_prefix_that_can_be_reused(expected: Expected, overlap: bool) -> None:
    """With overlap one more step has run when the scheduler learns of the end."""
    with running_scheduler(expected.path, disable_overlap_schedule=not overlap) as engine:
        for length in (5, 31, 64):
            said = expected.greedy(prompt(length), 12)
            answer = engine.ask(prompt(length), 12, sampling={"stop_token_ids": [said[5]]})
            assert answer.output_ids == said[: said.index(said[5]) + 1]
            assert answer.finish_reason["type"] == "stop"
            history = prompt(length) + answer.output_ids
            expected.answered(engine, [Ask([*history, *tokens(extra)], 6) for extra in (0, 1, 8)])


def test_streamed_tokens_are_exact(expected: Expected) -> None:
    with running_scheduler(expected.path, chunked_prefill_size=16) as engine:
        streams = [Ask(prompt(20 + seed), 7, fields={"stream": True}) for seed in range(4)]
        expected.answered(engine, [*streams, Ask(prompt(40), 9)])


def test_a_session_continues_exactly(expected: Expected) -> None:
    """A turn is appended to what was said before, in the scheduler."""
    with running_scheduler(expected.path) as engine:
        engine.send(io_struct.OpenSessionReqInput(capacity_of_str_len=1000, session_id="chat"))
        history, previous = [], None
        for turn in range(4):
            said = prompt(20) if previous is None else tokens(6, seed=turn)
            history = [*history, *said]
            session = io_struct.SessionParams(id="chat", rid=previous)
            previous = engine.submit(said, 9, session_params=session)
            answer = engine.run()[previous]
            expected.require(answer, Ask(history, 9))
            history += answer.output_ids
        engine.send(io_struct.CloseSessionReqInput(session_id="chat"))
        engine.run()


def test_embeddings_at_some_positions_are_exact_and_shared_with_nobody(expected: Expected) -> None:
    """At an anchor, in the gap and in the tail; the token ids there say nothing. Without a radix cache, in which SGLang
    files such a request under those ids, of any model."""
    table = expected.model.get_input_embeddings().weight.detach()
    question, positions = prompt(30, first=50), [0, 12, 28]
    placeholders = [1 if position in positions else token for position, token in enumerate(question)]
    embeddings = PositionalEmbeds(embeds=table[[question[position] for position in positions]], positions=positions)
    with running_scheduler(expected.path, disable_radix_cache=True, chunked_prefill_size=16) as engine:
        expected.answered(engine, [Ask(placeholders)])
        for _ in range(2):
            answer = engine.ask(placeholders, positional_embed_overrides=embeddings)
            assert answer.output_ids == expected.greedy(question, 8)
        assert active_pool().deep_bands[0].anchors.num_slots == 1


def test_a_request_may_fill_the_whole_context(expected: Expected) -> None:
    """The deep table is as wide as the context: all of it may be scored."""
    context = expected.model.config.max_position_embeddings
    question = prompt(context - 12)
    with running_scheduler(expected.path, deep_tokens=2 * context, chunked_prefill_size=700) as engine:
        for scored_from in (None, 0, context // 2):
            answer = engine.ask(question, 100, logprob_start_len=scored_from)
            num_tokens = len(answer.output_ids)
            assert num_tokens >= 9, "SGLang keeps a position or two for itself"
            expected.require(answer, Ask(question, num_tokens, scored_from))


def test_new_weights_do_not_meet_old_anchors(expected: Expected, tmp_path: Path) -> None:
    other = Expected(tmp_path, Bands(), seed=1)
    asks = [Ask(prompt(40), 9), Ask(prompt(25), 9)]
    with running_scheduler(expected.path) as engine:
        for each in (expected, other, expected):
            engine.send(io_struct.UpdateWeightFromDiskReqInput(model_path=str(each.path), load_format="auto"))
            for _ in range(2):
                each.answered(engine, asks)
