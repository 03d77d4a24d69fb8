"""Input log-probabilities are the reference's: a scored span is decode phase, cold, warm, in chunks and in batches."""

from __future__ import annotations

import pytest

from tests.catalogue import FASTKV, FASTKV_TWICE, POP, POP_WITH_MESSAGES, SETTINGS, THINNED, THINNED_TWICE, Bands
from tests.inprocess.parity.conftest import Checkpoints
from tests.inprocess.parity.expected import Ask, Expected, prompt, require_close, tokens
from tests.scheduler_harness import running_scheduler
from tests.tiny_models import VOCAB_SIZE

LENGTHS = (1, 2, 5, 18, 60)
ONE_ANCHOR, FOUR_ANCHORS = Bands(6, 1, 3), Bands(4, 4, 1)
CHOSEN = (
    ("defaults", ONE_ANCHOR),
    ("defaults", FOUR_ANCHORS),
    ("chunks of 17", POP),
    ("chunks of 17", FASTKV),
    ("pages, chunks of 16", FASTKV_TWICE),
    ("chunks of 16", THINNED),
    ("pages, no overlap", THINNED_TWICE),
    ("chunks of 16", POP_WITH_MESSAGES),
    ("chunks of 16", ONE_ANCHOR),
    ("chunks of 17", FOUR_ANCHORS),
    ("pages, chunks of 16", ONE_ANCHOR),
    ("pages, no overlap", FOUR_ANCHORS),
    ("no cache, chunks of 17", ONE_ANCHOR),
)


def spans(length: int) -> list[int]:
    """First scored positions: all, the middle, around the tail, the last two, none (the output only)."""
    return sorted({0, 1, length // 2, length - 4, length - 2, length - 1, length} & set(range(length + 1)))


def scored(prompts: list[list[int]], max_new_tokens: int = 3) -> list[Ask]:
    return [Ask(one, max_new_tokens, scored_from=start) for one in prompts for start in spans(len(one))]


@pytest.mark.parametrize(("name", "bands"), CHOSEN, ids=str)
def test_scores_are_the_references(checkpoints: Checkpoints, name: str, bands: Bands) -> None:
    """One after the other on a cold cache, warm, and all at once among requests without scores."""
    expected = checkpoints(bands)
    asks = scored([prompt(length, seed=length) for length in LENGTHS])
    with running_scheduler(expected.path, max_running_requests=24, **SETTINGS[name]) as engine:
        for ask in asks[::7]:
            engine.flush()
            expected.answered(engine, [ask])
        engine.flush()
        expected.answered(engine, [*asks, Ask(prompt(50), 4), *[Ask(prompt(60, seed=60), 2)] * 3])
        for ask in asks[::7]:
            expected.answered(engine, [ask])


def test_a_chunk_that_ends_among_scored_tokens_takes_no_window_apart(checkpoints: Checkpoints) -> None:
    """The tail fills what the deep band takes, so that it selects nothing; what is kept is selected all the same."""
    expected = checkpoints(Bands(4, 1, 16, "fastkv", select_ratio=0.3, select_window=4, kv_keep=0.3))
    asks = [Ask(prompt(length, seed=1), 4, scored_from=length - back) for length in (35, 52) for back in (1, 2, 3)]
    with running_scheduler(expected.path, chunked_prefill_size=17) as engine:
        for ask in asks:
            engine.flush()
            expected.answered(engine, [ask])


def test_scoring_without_generating_is_exact(expected: Expected) -> None:
    asks = scored([prompt(length, seed=length) for length in LENGTHS[1:]], max_new_tokens=0)
    with running_scheduler(expected.path, chunked_prefill_size=16) as engine:
        expected.answered(engine, asks)
        answers = expected.answered(engine, [*asks, Ask(prompt(30), 0), Ask(prompt(31), 0), Ask(prompt(33), 3)])
    assert {len(answer.output_ids) for answer in answers} == {0, 3}


def test_a_long_scored_span_over_many_chunks_is_exact(expected: Expected) -> None:
    question = prompt(300)
    asks = [Ask(question, 6, scored_from=start) for start in (0, 100, 131, 290)]
    with running_scheduler(expected.path, chunked_prefill_size=17, max_total_tokens=16384) as engine:
        for _ in range(2):
            for ask in asks:
                expected.answered(engine, [ask])
            expected.answered(engine, [*asks, Ask(prompt(90)), Ask(question[:200])])


def test_scores_of_a_chats_answer_do_not_depend_on_what_is_cached(expected: Expected) -> None:
    """Scored tokens that were generated before: their shallow KV may be in the tree, deep KV never is."""
    with running_scheduler(expected.path) as engine:
        history = prompt(24)
        for turn in range(3):
            (answer,) = expected.answered(engine, [Ask(history, 9, scored_from=len(history))])
            said, history = history, history + answer.output_ids
            (scored_answer,) = expected.answered(engine, [Ask(history, 1, scored_from=len(said) - 1)])
            assert scored_answer.cached_tokens > 0
            history = history + tokens(5, seed=turn)


@pytest.mark.parametrize("chunk", [-1, 16])
def test_the_distribution_over_a_scored_span_is_the_references(expected: Expected, chunk: int) -> None:
    question = prompt(40)
    with running_scheduler(expected.path, chunked_prefill_size=chunk) as engine:
        for _ in range(2):
            whole_vocabulary = {"top_logprobs_num": VOCAB_SIZE}
            answer = engine.ask(question, 1, logprob_start_len=20, **whole_vocabulary)
            found = [top[token] for top, token in zip(answer.input_top_logprobs[1:], question[21:], strict=True)]
            require_close(found, expected.scores(question, 20), "all tokens' log-probabilities")
