"""The storm's comparison finds what it should find, and nothing else."""

from __future__ import annotations

import dataclasses

import pytest

from sglang_speed.reference.generation import generate_greedy, score
from tests.server.storm.examiner import Examiner
from tests.server.storm.kinds import Episode, deck
from tests.server.storm.questions import Outcome, Question
from tests.server.storm.setups import SETUPS, Setup
from tests.server.storm.watch import late_growth
from tests.tiny_models import EOS_ID, ids_of

PROMPT = tuple(ids_of("A prompt whose last tokens are deep, and the others are not."))


@pytest.fixture(scope="module", params=SETUPS.values(), ids=SETUPS)
def examiner(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Examiner:
    setup: Setup = request.param
    return Examiner(setup.checkpoint(tmp_path_factory.mktemp("examiner")))


def answered(examiner: Examiner, scored_from: int | None = None) -> Outcome:
    """What an exact server says, token by token."""
    output = generate_greedy(examiner.model, PROMPT, 24, scored_from=scored_from)
    scores = [] if scored_from is None else [None, *score(examiner.model, PROMPT, scored_from)]
    meta = {"input_token_logprobs": [[value, 0, None] for value in scores]}
    return Outcome("example", Question(PROMPT, 24, scored_from), "finished", True, tuple(output), meta)


@pytest.mark.parametrize("scored_from", [None, 0, 30, len(PROMPT) - 1])
def test_an_answer_of_the_reference_loop_is_exact(examiner: Examiner, scored_from: int | None) -> None:
    verdict = examiner.examine(answered(examiner, scored_from))
    assert (verdict.num_tokens, verdict.num_rounded, verdict.mismatch) == (24, 0, "")


@pytest.mark.parametrize("index", [0, 10, 23])
def test_one_wrong_token_is_found(examiner: Examiner, index: int) -> None:
    outcome = answered(examiner)
    output = list(outcome.output_ids)
    output[index] = 40 if output[index] != 40 else 41
    wrong = dataclasses.replace(outcome, output_ids=tuple(output))
    assert f"output {index} of 24" in examiner.examine(wrong).mismatch


def test_an_answer_to_a_scored_prompt_is_not_one_to_the_same_prompt_unscored(examiner: Examiner) -> None:
    """They differ in depth, so comparing them with each other's reference must fail."""
    assert answered(examiner).output_ids != answered(examiner, 0).output_ids
    mixed = dataclasses.replace(answered(examiner), question=Question(PROMPT, 24, 0))
    assert examiner.examine(mixed).mismatch


def test_a_wrong_score_is_found(examiner: Examiner) -> None:
    outcome = answered(examiner, 30)
    entries = [list(entry) for entry in outcome.meta["input_token_logprobs"]]
    entries[5][0] += 0.01
    wrong = dataclasses.replace(outcome, meta={"input_token_logprobs": entries})
    assert "scores differ by" in examiner.examine(wrong).mismatch


def test_a_part_is_exact_where_it_was_stopped_and_too_short_where_it_finished(examiner: Examiner) -> None:
    outcome = answered(examiner)
    part = dataclasses.replace(outcome, output_ids=outcome.output_ids[:7])
    assert "7 tokens instead of 24" in examiner.examine(part).mismatch
    assert not examiner.examine(dataclasses.replace(part, end="aborted")).mismatch


def test_a_pattern_is_required_and_forbids_tokens(examiner: Examiner) -> None:
    pattern = "[ab]{3}"
    free = dataclasses.replace(answered(examiner), question=Question(PROMPT, 24, pattern=pattern))
    assert "does not match" in examiner.examine(free).mismatch
    verdicts = []
    for text in ("".join((a, b, c)) for a in "ab" for b in "ab" for c in "ab"):
        output = (*ids_of(text)[1:], EOS_ID)
        verdicts.append(examiner.examine(dataclasses.replace(free, output_ids=output)))
    assert sum(not verdict.mismatch for verdict in verdicts) == 1


def test_growth_is_found_and_a_start_is_none() -> None:
    assert late_growth([100.0, *[200.0] * 7]) == 0
    assert late_growth([100.0 + second for second in range(40)]) == 20


def test_a_seed_decides_what_is_asked() -> None:
    first, again, other = (questions_of(seed) for seed in ("1 0", "1 0", "2 0"))
    assert first == again != other


def questions_of(seed: str) -> list[tuple[str, Question]]:
    """The first question of every episode of a deck."""
    client: list[tuple[str, Question]] = []

    class Listener:
        def ask(self, kind: str, question: Question, **_: object) -> None:
            client.append((kind, question))

    for kind, episode in deck(Listener(), SETUPS["pages"].sizes, seed):  # type: ignore[arg-type]
        assert isinstance(episode, Episode)
        if kind.__name__ in ("one_turn", "chat", "scored", "long_prompt"):
            kind(episode)
    return client
