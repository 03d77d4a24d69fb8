"""Drafts change no answer: with them each one is the reference's, token by token, whatever is accepted or rejected."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings

from sglang_speed.errors import ConfigError
from tests import host
from tests.catalogue import (
    CHUNKS_OF_16,
    CHUNKS_OF_17,
    FASTKV,
    FASTKV_TWICE,
    NO_CACHE,
    POP_WITH_ANCHORS,
    POP_WITH_MESSAGES,
    RETRACTED,
    SHAPE,
    THINNED,
    THINNED_TWICE,
    Bands,
)
from tests.inprocess.parity.conftest import Checkpoints
from tests.inprocess.parity.drafts import (
    NGRAM,
    NUM_DRAFTS,
    drafting_scheduler,
    require_drafts_of_both_kinds,
    standalone,
)
from tests.inprocess.parity.expected import OF_THE_OUTPUT, Ask, Expected, prompt, submit, tokens
from tests.inprocess.parity.flashinfer_standin import flashinfer_standin
from tests.inprocess.parity.recorded_graph import record_decode_graphs
from tests.inprocess.parity.test_random_workloads import SMALLEST_DEEP_BAND, Scenario, play, scenarios
from tests.tiny_models import make_tiny_model

pytestmark = pytest.mark.skipif(host.IS_OLDEST, reason="refused there, see test_refused_settings")

ALL_DEEP = Bands(6, 1, 3, "fastkv", select_ratio=1.0)
BANDS = [Bands(6, 1, 3), Bands((2, 5), 4, 16), POP_WITH_ANCHORS, FASTKV_TWICE, THINNED_TWICE, POP_WITH_MESSAGES]
PAGES = {"page_size": 16, "speculative_ngram_max_bfs_breadth": 1}
"""With pages SGLang wants no branches; there are some all the same, where two contexts are continued differently."""
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "chunks of 17": CHUNKS_OF_17,
    "pages of 16, chunks of 16": PAGES | CHUNKS_OF_16,
    "no cache": NO_CACHE,
    "retracted": RETRACTED,
    "three requests at a time": {"max_running_requests": 3},
}


@pytest.fixture(scope="module")
def draft_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of the models of the catalogue at full depth: right often, not always."""
    return make_tiny_model(tmp_path_factory.mktemp("draft"), **SHAPE)


@pytest.fixture(params=["NGRAM", "NGRAM, overlap", "STANDALONE"])
def drafting(request: pytest.FixtureRequest, draft_model: Path) -> Mapping[str, Any]:
    """What a scheduler is given; where a draft model is served there is no overlap."""
    if request.param == "STANDALONE":
        return standalone(draft_model)
    return {**NGRAM, "overlap": request.param != "NGRAM"}


def workload() -> list[Ask]:
    """Of all lengths; one repeats itself, one is long, one has a scored span, one wants a single token."""
    repeated = (prompt(12) * 4)[:45]
    asks = [Ask(prompt(length, seed=length), 18, when=length // 8) for length in (1, 3, 17, 40)]
    asks += [Ask(repeated, 30), Ask(repeated + tokens(3), 9, scored_from=OF_THE_OUTPUT, when=3)]
    return [*asks, Ask(prompt(70), 20, scored_from=60), Ask(prompt(9), 1), Ask(prompt(33), 2, when=4)]


@pytest.mark.parametrize("bands", BANDS, ids=str)
def test_drafts_change_no_answer(checkpoints: Checkpoints, drafting: Mapping[str, Any], bands: Bands) -> None:
    """Cold, then warm behind what was answered, then once more, where drafts are often right."""
    expected = checkpoints(bands)
    with drafting_scheduler(expected.path, **drafting) as engine:
        cold = expected.answered(engine, workload())
        behind = [[*ask.prompt, *answer.output_ids, *tokens(3)] for ask, answer in zip(workload(), cold, strict=True)]
        warm = expected.answered(engine, [Ask(one, 12) for one in behind])
        again = expected.answered(engine, workload())
    require_drafts_of_both_kinds([*cold, *warm, *again])
    assert any(answer.cached_tokens for answer in warm)


@pytest.mark.parametrize("algorithm", ["NGRAM", "STANDALONE"])
@pytest.mark.parametrize(
    ("name", "bands"),
    [*((name, Bands(6, 1, 16)) for name in SETTINGS), ("retracted", POP_WITH_ANCHORS), ("retracted", THINNED)],
    ids=str,
)
def test_settings_change_no_answer(
    checkpoints: Checkpoints, draft_model: Path, algorithm: str, bands: Bands, name: str
) -> None:
    drafting = NGRAM if algorithm == "NGRAM" else standalone(draft_model)
    expected = checkpoints(bands)
    with drafting_scheduler(expected.path, **drafting, **SETTINGS[name]) as engine:
        answers = expected.answered(engine, workload()) + expected.answered(engine, workload())
    require_drafts_of_both_kinds(answers)
    assert any(answer.num_retractions for answer in answers) == (name == "retracted")


@pytest.mark.parametrize("settings", [{}, CHUNKS_OF_17, {"page_size": 16}], ids=str)
def test_a_draft_model_that_knows_the_answer_has_every_draft_accepted(
    checkpoints: Checkpoints, draft_model: Path, settings: Mapping[str, Any]
) -> None:
    """The same weights, where all tokens are deep; cold, and behind a prefix that another request went on from."""
    expected = checkpoints(ALL_DEEP)
    asks = [Ask(prompt(length, seed=length), 26, when=length // 8) for length in (1, 3, 17, 40, 70)]
    forked = [Ask(ask.prompt[: 2 + len(ask.prompt) * 2 // 3] + tokens(5), 16) for ask in asks]
    with drafting_scheduler(expected.path, **standalone(draft_model), **settings) as engine:
        answers = expected.answered(engine, asks) + expected.answered(engine, forked)
    assert any(answer.cached_tokens for answer in answers)
    for answer in answers:
        assert answer.num_verified == (len(answer.output_ids) - 1) / NUM_DRAFTS


@pytest.mark.parametrize(
    "model", ["gemma2", "gemma3_text", "gpt_oss", "deepseek_v3", "qwen3_moe", "qwen2_5_vl", "smollm3"]
)
def test_drafts_of_other_architectures_change_no_answer(model: str, tmp_path: Path) -> None:
    """Windows, sinks, latent attention, experts, a decoder of transformers."""
    expected = Expected(tmp_path, Bands(6, 1, 3), model=model)
    with drafting_scheduler(expected.path, **CHUNKS_OF_17) as engine:
        answers = expected.answered(engine, workload()) + expected.answered(engine, workload())
    require_drafts_of_both_kinds(answers)


@pytest.mark.parametrize("pools", [{"max_total_tokens": 192, "deep_tokens": 600}, {"deep_tokens": 110}], ids=str)
def test_a_full_pool_of_either_band_retracts_exactly(
    expected: Expected, drafting: Mapping[str, Any], pools: Mapping[str, int]
) -> None:
    asks = [Ask(prompt(6 + seed, seed=seed), 30, when=2 * seed) for seed in range(9)]
    with drafting_scheduler(expected.path, schedule_conservativeness=0.01, **drafting, **pools) as engine:
        answers = expected.answered(engine, asks)
    assert any(answer.num_retractions for answer in answers)


def test_an_answer_ends_among_accepted_drafts(expected: Expected, drafting: Mapping[str, Any]) -> None:
    """At every third place of an answer; what comes behind it is exact."""
    question = (prompt(12) * 4)[:45]
    said = expected.greedy(question, 20)
    with drafting_scheduler(expected.path, **drafting) as engine:
        for last in range(0, len(said), 3):
            answer = engine.ask(question, 20, sampling={"stop_token_ids": [said[last]]})
            assert answer.output_ids == said[: said.index(said[last]) + 1]
            assert answer.finish_reason is not None
            assert answer.finish_reason["type"] == "stop"
            expected.answered(engine, [Ask([*question, *answer.output_ids, *tokens(2)], 4), Ask(question, last + 1)])


def test_an_abort_among_drafts_leaves_nothing(expected: Expected, drafting: Mapping[str, Any]) -> None:
    victim, others = Ask(prompt(12) * 3, 60), [Ask(prompt(30), 9), Ask(prompt(12) * 3 + tokens(5), 12, when=3)]
    with drafting_scheduler(expected.path, **drafting) as engine:
        for step in range(1, 12, 2):
            name = submit(engine, victim)
            engine.abort(name, when=step)
            expected.answered(engine, others)
            said = engine.answers[name].output_ids
            expected.require_tokens(said, victim, len(said))
        expected.answered(engine, [victim, *others])


def test_a_request_may_fill_the_context(expected: Expected, drafting: Mapping[str, Any]) -> None:
    """Its line of the tables has room for drafts behind its last token, and so have its neighbours'."""
    asks = [Ask(prompt(20, seed=seed), 40) for seed in range(3)]
    with drafting_scheduler(expected.path, context_length=64, **drafting) as engine:
        names = [submit(engine, Ask(ask.prompt, 100)) for ask in asks]
        answers = engine.run()
        for name, ask in zip(names, asks, strict=True):
            expected.require_tokens(answers[name].output_ids[:40], ask, 40)
            assert len(answers[name].output_ids) >= 40


def test_an_answer_is_cut_to_what_the_deep_band_holds_beside_drafts(expected: Expected) -> None:
    """4 deep tokens of the prompt and 20 places for drafts leave 16 of 40."""
    with drafting_scheduler(expected.path, deep_tokens=40) as engine:
        answer = engine.ask(prompt(30), 100)
        expected.require_tokens(answer.output_ids, Ask(prompt(30)), 16)


@hypothesis_settings(
    max_examples=12,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(scenario=scenarios(smallest_deep_band=SMALLEST_DEEP_BAND + 20))
def test_random_workloads_with_drafts_are_exact(checkpoints: Checkpoints, scenario: Scenario) -> None:
    expected = checkpoints(scenario.bands)
    breadth = {"speculative_ngram_max_bfs_breadth": 1} if scenario.settings["page_size"] > 1 else {}
    overlap = not scenario.settings["disable_overlap_schedule"]
    with drafting_scheduler(expected.path, overlap=overlap, **scenario.settings, **breadth) as engine:
        play(expected, scenario, engine, num_ahead=10 if breadth else 20)


@pytest.mark.parametrize("in_graphs", [False, True], ids=["eager", "decode graphs"])
@pytest.mark.parametrize("bands", [Bands(6, 1, 3), POP_WITH_ANCHORS, FASTKV, THINNED], ids=str)
def test_drafts_on_flashinfer_change_no_answer(checkpoints: Checkpoints, bands: Bands, in_graphs: bool) -> None:
    """On a stand-in for its library, with overlap; graphs are padded to more requests than a batch has."""
    expected = checkpoints(bands)
    with flashinfer_standin(), drafting_scheduler(expected.path, overlap=True) as engine:
        graphs = record_decode_graphs(engine.scheduler, [1, 3, 8]) if in_graphs else None
        answers = expected.answered(engine, workload()) + expected.answered(engine, workload())
    require_drafts_of_both_kinds(answers)
    assert graphs is None or graphs.num_replays > 10


def test_a_draft_model_in_bands_is_refused(expected: Expected) -> None:
    with (
        pytest.raises(ConfigError, match="draft model"),
        drafting_scheduler(expected.path, **standalone(expected.path)),
    ):
        pass


def test_a_draft_model_of_branches_is_refused(expected: Expected, draft_model: Path) -> None:
    branches = {"speculative_eagle_topk": 2, "speculative_num_draft_tokens": 5}
    with (
        pytest.raises(ConfigError, match="topk"),
        drafting_scheduler(expected.path, **standalone(draft_model) | branches),
    ):
        pass
