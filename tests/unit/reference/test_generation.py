"""Greedy generation and scores: with and without a cache, against the stock model and against each other."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from transformers import LlamaForCausalLM
from transformers.cache_utils import DynamicCache

from sglang_speed.reference.generation import generate_greedy, greedy_steps, score, steps_along
from sglang_speed.reference.modeling import SpeedLlamaForCausalLM
from tests.tiny_models import EOS_ID, ids_of

PROMPT = ids_of("Which rows are deep?")
PROMPTS = [PROMPT[:1], PROMPT[:2], PROMPT[:5], PROMPT]
NUM_NEW = 8
# float32 through four layers; the largest difference seen between two orders of summation is 1e-5
ATOL = 1e-4

SpeedModels = Callable[..., SpeedLlamaForCausalLM]


@pytest.mark.parametrize("tail_tokens", [1, 2, 3, 16])
@pytest.mark.parametrize("anchor_tokens", [0, 1, 4])
@pytest.mark.parametrize("prefill_layers", [2, 3, 4])
def test_a_cache_changes_no_token_and_no_logit(
    speed_model: SpeedModels, prefill_layers: int, anchor_tokens: int, tail_tokens: int
) -> None:
    model = speed_model(prefill_layers, anchor_tokens, tail_tokens)
    for prompt in PROMPTS:
        cached = list(greedy_steps(model, prompt, NUM_NEW))
        recomputed = list(greedy_steps(model, prompt, NUM_NEW, use_cache=False))
        assert [step.token_id for step in cached] == [step.token_id for step in recomputed]
        along = steps_along(model, prompt, [step.token_id for step in cached])
        for one, *others in zip(cached, recomputed, along, strict=True):
            for other in others:
                torch.testing.assert_close(one.logits, other.logits, rtol=0.0, atol=ATOL)


@pytest.mark.parametrize(("prefill_layers", "tail_tokens"), [(4, 1), (2, len(PROMPT)), (2, len(PROMPT) + 5)])
def test_without_a_gap_the_stock_model_generates_the_same(
    speed_model: SpeedModels, stock_model: LlamaForCausalLM, prefill_layers: int, tail_tokens: int
) -> None:
    generated = stock_model.generate(torch.tensor([PROMPT]), max_new_tokens=16, do_sample=False)[0, len(PROMPT) :]
    assert generate_greedy(speed_model(prefill_layers, 1, tail_tokens), PROMPT, 16) == generated.tolist()


def test_a_gap_changes_what_is_generated(speed_model: SpeedModels) -> None:
    """Without this the comparisons of this file could hold by accident."""
    outputs = {tuple(generate_greedy(speed_model(*bands), PROMPT, 16)) for bands in [(4, 1, 1), (3, 1, 1), (3, 0, 1)]}
    assert len(outputs) == 3


def test_an_output_is_followed_up_to_what_differs(speed_model: SpeedModels) -> None:
    model = speed_model(3)
    output = generate_greedy(model, PROMPT, NUM_NEW)
    assert steps_along(model, PROMPT, []) == []
    wrong = [*output[:3], output[3] + 1, *output[4:]]
    assert [step.token_id for step in steps_along(model, PROMPT, wrong)][:4] == output[:4]


def test_the_end_of_sequence_is_the_last_token(speed_model: SpeedModels) -> None:
    model = speed_model(3)
    generated = generate_greedy(model, PROMPT, NUM_NEW)
    stop = generated[4]
    assert generate_greedy(model, PROMPT, NUM_NEW, eos_token_id=stop) == generated[: generated.index(stop) + 1]


def test_tiny_models_do_not_end_by_themselves(speed_model: SpeedModels) -> None:
    assert len(generate_greedy(speed_model(3), PROMPT, 64, eos_token_id=EOS_ID)) == 64


def test_the_margin_is_between_the_two_best_tokens(speed_model: SpeedModels) -> None:
    for step in greedy_steps(speed_model(3), PROMPT, NUM_NEW):
        best = sorted(step.logits.tolist(), reverse=True)
        assert step.logits[step.token_id] == best[0]
        assert step.margin == pytest.approx(best[0] - best[1])


@torch.no_grad()
def test_generation_leaves_the_shallow_kv_that_prefill_would(speed_model: SpeedModels) -> None:
    model = speed_model(3, 1, 2)
    tokens = torch.tensor([PROMPT + generate_greedy(model, PROMPT, NUM_NEW)])
    decoded, prefilled = DynamicCache(), DynamicCache()
    deep = model.policy.deep_tokens(len(PROMPT))
    for start, end in pairwise([0, *range(len(PROMPT), tokens.shape[1] + 1)]):
        model(tokens[:, start:end], deep, decoded)
    model(tokens, model.policy.deep_tokens(tokens.shape[1]), prefilled)
    for layer in range(3):
        for kind in ("keys", "values"):
            one, other = (getattr(cache.layers[layer], kind) for cache in (decoded, prefilled))
            torch.testing.assert_close(one, other, rtol=0.0, atol=ATOL)


@pytest.mark.parametrize("scored_from", [0, 1, 7, len(PROMPT) - 2, len(PROMPT) - 1])
@pytest.mark.parametrize(("anchor_tokens", "tail_tokens"), [(0, 1), (1, 3), (4, 16)])
def test_scores_are_those_of_decoding_step_by_step(
    speed_model: SpeedModels, anchor_tokens: int, tail_tokens: int, scored_from: int
) -> None:
    model, cache = speed_model(3, anchor_tokens, tail_tokens), DynamicCache()
    deep = model.policy.deep_tokens(len(PROMPT), scored_from)
    expected = []
    for start, end in pairwise([0, *range(scored_from + 1, len(PROMPT))]):
        logits = model(torch.tensor([PROMPT[start:end]]), deep, cache).logits[0, -1].detach()
        expected.append(logits.log_softmax(-1)[PROMPT[end]].item())
    assert score(model, PROMPT, scored_from) == pytest.approx(expected, abs=ATOL)


def test_the_score_of_what_was_generated_is_what_generation_said(speed_model: SpeedModels) -> None:
    """With a tail of one the scored span and the decode phase begin at the same position."""
    model = speed_model(3, 1, 1)
    steps = list(greedy_steps(model, PROMPT, NUM_NEW))
    said = [step.logits.log_softmax(-1)[step.token_id].item() for step in steps]
    tokens = PROMPT + [step.token_id for step in steps]
    assert score(model, tokens, scored_from=len(PROMPT) - 1) == pytest.approx(said, abs=ATOL)


def test_a_prompt_scored_from_its_first_token_is_at_full_depth(
    speed_model: SpeedModels, stock_model: LlamaForCausalLM
) -> None:
    with torch.no_grad():
        logprobs = stock_model(torch.tensor([PROMPT])).logits[0].log_softmax(-1)
    expected = [logprobs[position, token].item() for position, token in enumerate(PROMPT[1:])]
    assert score(speed_model(2, 1, 1), PROMPT, scored_from=0) == pytest.approx(expected, abs=ATOL)


def test_asking_for_scores_deepens_the_answer_too(speed_model: SpeedModels, stock_model: LlamaForCausalLM) -> None:
    generated = stock_model.generate(torch.tensor([PROMPT]), max_new_tokens=16, do_sample=False)[0, len(PROMPT) :]
    assert generate_greedy(speed_model(3, 0, 1), PROMPT, 16, scored_from=0) == generated.tolist()


@pytest.mark.parametrize("scored_from", [-1, len(PROMPT)])
def test_a_span_outside_the_request_is_not_scored(speed_model: SpeedModels, scored_from: int) -> None:
    with pytest.raises(AssertionError, match=f"scored_from={scored_from}"):
        score(speed_model(3), PROMPT, scored_from)
