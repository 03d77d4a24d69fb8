"""What is read at the last token of a prompt, or at a generated one, has passed all layers: hidden states and
embeddings are the reference's, after its last norm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from sglang_speed.features.prefill_only import POOLED_AT_LAST_TOKEN
from tests import host
from tests.catalogue import (
    FASTKV,
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
from tests.inprocess.parity.expected import Expected, prompt, tokens
from tests.scheduler_harness import Answer, SchedulerHarness, running_scheduler

pytestmark = pytest.mark.skipif(host.IS_OLDEST, reason="refused there")

ATOL = 1e-4
"""Components are about 1; the largest difference seen between two orders of summation is 1e-5."""
BANDS = [Bands(), POP_WITH_ANCHORS, FASTKV, THINNED, WITH_MESSAGES]
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "mixed chunks": MIXED | {"chunked_prefill_size": 16},
    "pages, no overlap": PAGES | NO_OVERLAP | {"chunked_prefill_size": 32},
    "retracted": RETRACTED,
}
PROMPTS = [prompt(2), prompt(9), prompt(90), [*prompt(60), *tokens(7)]]


@torch.no_grad()
def states(expected: Expected, prompt: Sequence[int], output: Sequence[int], scored_from: int | None = None) -> Tensor:
    """Those of the tokens in the decode phase, [num_tokens, hidden_size]; the last output token has none."""
    model, found = expected.model, list[Tensor]()
    norm = model.get_decoder().norm.register_forward_hook(lambda _, args, out: found.append(out[0]))
    try:
        deep = model.deep_tokens(prompt, scored_from)
        model(torch.tensor([[*prompt, *output[:-1]]]), deep)
    finally:
        norm.remove()
    return found[-1][deep[-1].index_of(deep[-1].deep_start) :]


def require_close(found: Any, wanted: Tensor) -> None:
    torch.testing.assert_close(torch.tensor(found), wanted, atol=ATOL, rtol=0)


def require_last(expected: Expected, prompt: Sequence[int], answer: Answer) -> None:
    """The state that the last token came from."""
    assert answer.finish_reason == {"type": "length", "length": len(answer.output_ids)}
    require_close(answer.hidden_states, states(expected, prompt, answer.output_ids)[-1])


def ask_all(engine: SchedulerHarness, num_new: int, **fields: Any) -> list[Answer]:
    names = [engine.submit(each, num_new + place, when=place, **fields) for place, each in enumerate(PROMPTS)]
    answers = engine.run()
    return [answers[name] for name in names]


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("bands", BANDS, ids=str)
def test_the_last_hidden_state_is_the_references_cold_and_warm(
    checkpoints: Checkpoints, bands: Bands, name: str
) -> None:
    expected = checkpoints(bands)
    with running_scheduler(expected.path, return_hidden_states_mode="last", **SETTINGS[name]) as engine:
        for _ in range(2):
            answers = ask_all(engine, 7, return_hidden_states="last")
            for each, answer in zip(PROMPTS, answers, strict=True):
                require_last(expected, each, answer)
        assert answers[2].cached_tokens >= 64
        assert any(answer.num_retractions for answer in answers) == (name == "retracted")


@pytest.mark.parametrize("bands", BANDS, ids=str)
def test_states_of_a_whole_prompt_are_served_where_all_of_it_passes_all_layers(
    checkpoints: Checkpoints, bands: Bands
) -> None:
    """And refused with the reason where it does not, beside requests that go on."""
    expected, short, long = checkpoints(bands), prompt(bands.tail_tokens), prompt(40)
    with running_scheduler(expected.path, enable_return_hidden_states=True) as engine:
        every = {"return_hidden_states": True}
        whole = [engine.submit(short, 4, **every), engine.submit(long, 4, logprob_start_len=0, **every)]
        last, refused = engine.submit(long, 4, return_hidden_states="last"), engine.submit(long, 4, **every)
        engine.run()
        warm = engine.ask(long, 4, logprob_start_len=0, **every)
    require_last(expected, long, engine.answers[last])
    for each, answer in ((short, engine.answers[whole[0]]), (long, engine.answers[whole[1]]), (long, warm)):
        of_prompt, *of_output = answer.hidden_states
        scored_from = None if each is short else 0
        wanted = states(expected, each, answer.output_ids, scored_from)
        require_close([*of_prompt, *of_output], wanted)
    reason = engine.answers[refused].finish_reason
    assert reason["type"] == "abort"
    assert f"{40 - bands.tail_tokens} of its 40 tokens have no last hidden state" in reason["message"]
    assert 'return_hidden_states="last"' in reason["message"]


def require_embedding(expected: Expected, prompt: Sequence[int], answer: Answer) -> None:
    wanted = states(expected, prompt, [0])[-1]
    require_close(answer.embedding, wanted / wanted.norm())


@pytest.mark.parametrize("name", ["mixed chunks", "pages, no overlap"])
@pytest.mark.parametrize("bands", BANDS, ids=str)
def test_an_embedding_is_the_references_cold_and_warm(checkpoints: Checkpoints, bands: Bands, name: str) -> None:
    expected = checkpoints(bands)
    with running_scheduler(expected.path, is_embedding=True, **SETTINGS[name]) as engine:
        for _ in range(2):
            names = [engine.submit_to_embed(each) for each in PROMPTS]
            answers = engine.run()
            for name, each in zip(names, PROMPTS, strict=True):
                require_embedding(expected, each, answers[name])
        assert max(answers[name].cached_tokens for name in names) >= 32


@pytest.mark.parametrize("model", POOLED_AT_LAST_TOKEN)
def test_each_model_that_is_not_refused_takes_its_embedding_from_the_last_token(
    checkpoints: Checkpoints, model: str
) -> None:
    expected = checkpoints(Bands(), model)
    with running_scheduler(expected.path, is_embedding=True) as engine:
        name = engine.submit_to_embed(prompt(30))
        require_embedding(expected, prompt(30), engine.run()[name])
