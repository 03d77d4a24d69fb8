"""The forward of the reference against the stock model, against a mask, and against what must not matter."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM
from transformers.cache_utils import DynamicCache

from sglang_speed.method import DeepTokens
from sglang_speed.reference.modeling import IGNORED_LABEL, SpeedLlamaForCausalLM
from tests.tiny_models import ids_of

PROMPT = torch.tensor([ids_of("A prompt that is long enough to have a gap.")])
PROMPT_LEN = PROMPT.shape[1]
# float32 through four layers; the largest difference seen between two orders of summation is 1e-5
CLOSE = {"rtol": 0.0, "atol": 1e-4}

SpeedModels = Callable[..., SpeedLlamaForCausalLM]


def logits_with_hidden_gap(model: SpeedLlamaForCausalLM, input_ids: Tensor, deep: DeepTokens) -> Tensor:
    """The method said another way: every token passes every layer, but above the cutoff no token sees the gap.

    [num_deep, vocab], for the deep tokens.
    """
    num_tokens = input_ids.shape[1]
    is_deep = torch.tensor([deep.is_deep(position) for position in range(num_tokens)])
    causal = torch.ones(num_tokens, num_tokens, dtype=torch.bool).tril()
    without_gap = causal & (is_deep | torch.eye(num_tokens, dtype=torch.bool))
    hidden = model.model.embed_tokens(input_ids)
    position_embeddings = model.model.rotary_emb(hidden, torch.arange(num_tokens)[None])
    for index, layer in enumerate(model.model.layers):
        visible = causal if index < model.policy.config.prefill_layers else without_gap
        hidden = layer(hidden, attention_mask=visible[None, None], position_embeddings=position_embeddings)
    return model.lm_head(model.model.norm(hidden))[0, is_deep]


@torch.no_grad()
@pytest.mark.parametrize("tail_tokens", [1, 3, 16])
@pytest.mark.parametrize("anchor_tokens", [0, 1, 4])
@pytest.mark.parametrize("prefill_layers", [1, 2, 3])
def test_leaving_rows_out_is_hiding_them_above_the_cutoff(
    speed_model: SpeedModels, prefill_layers: int, anchor_tokens: int, tail_tokens: int
) -> None:
    model = speed_model(prefill_layers, anchor_tokens, tail_tokens)
    deep = model.policy.deep_tokens(PROMPT_LEN)
    torch.testing.assert_close(model(PROMPT, deep).logits[0], logits_with_hidden_gap(model, PROMPT, deep), **CLOSE)


def logits_with_two_rows(model: SpeedLlamaForCausalLM, input_ids: Tensor, deep: DeepTokens) -> Tensor:
    """POP said another way: above the cutoff every token has a row whose hidden state stays what it was there, and a
    deep token has a second one, which is seen in place of the first.

    [num_deep, vocab], for the deep tokens.
    """
    num_tokens = input_ids.shape[1]
    positions = torch.arange(num_tokens)
    is_deep = torch.tensor([deep.is_deep(position) for position in range(num_tokens)])
    places = torch.cat([positions, positions[is_deep]])
    is_first = torch.arange(len(places)) < num_tokens
    is_shown = torch.where(is_first, ~is_deep[places], True)
    two_rows = (places[:, None] >= places) & is_shown
    causal = torch.ones(num_tokens, num_tokens, dtype=torch.bool).tril()
    hidden, cutoff = model.model.embed_tokens(input_ids), model.policy.config.prefill_layers
    for layer in model.model.layers[:cutoff]:
        embeddings = model.model.rotary_emb(hidden, positions[None])
        hidden = layer(hidden, attention_mask=causal[None, None], position_embeddings=embeddings)
    second = hidden[:, is_deep]
    for layer in model.model.layers[cutoff:]:
        both = torch.cat([hidden, second], dim=1)
        embeddings = model.model.rotary_emb(both, places[None])
        second = layer(both, attention_mask=two_rows[None, None], position_embeddings=embeddings)[:, num_tokens:]
    return model.lm_head(model.model.norm(second))[0]


@torch.no_grad()
@pytest.mark.parametrize(("anchor_tokens", "tail_tokens"), [(0, 1), (0, 16), (4, 3)])
@pytest.mark.parametrize("prefill_layers", [1, 2, 3])
def test_filling_in_is_a_second_row_for_each_deep_token(
    speed_model: SpeedModels, prefill_layers: int, anchor_tokens: int, tail_tokens: int
) -> None:
    model = speed_model(prefill_layers, anchor_tokens, tail_tokens, policy="pop")
    deep = model.policy.deep_tokens(PROMPT_LEN)
    found = model(PROMPT, deep).logits[0]
    torch.testing.assert_close(found, logits_with_two_rows(model, PROMPT, deep), **CLOSE)
    invisible = speed_model(prefill_layers, anchor_tokens, tail_tokens)(PROMPT).logits[0]
    assert (found[-1] - invisible[-1]).abs().max() > 0.01, "filling in changes nothing, so nothing was tested"


@torch.no_grad()
def test_the_gap_matters(speed_model: SpeedModels, stock_model: LlamaForCausalLM) -> None:
    """Without this the comparisons of this file could hold by accident."""
    logits = speed_model(2, 1, 1)(PROMPT).logits[0, -1]
    assert (logits - stock_model(PROMPT).logits[0, -1]).abs().max() > 0.1


@torch.no_grad()
def test_the_cutoff_at_the_last_layer_is_the_stock_model(
    speed_model: SpeedModels, stock_model: LlamaForCausalLM
) -> None:
    output = speed_model(4, 1, 2)(PROMPT)
    assert output.positions.tolist() == [0, PROMPT_LEN - 2, PROMPT_LEN - 1]
    torch.testing.assert_close(output.logits, stock_model(PROMPT).logits[:, output.positions], **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("tail_tokens", [PROMPT_LEN, PROMPT_LEN + 5])
def test_the_tail_covering_the_prompt_is_the_stock_model(
    speed_model: SpeedModels, stock_model: LlamaForCausalLM, tail_tokens: int
) -> None:
    output = speed_model(2, 1, tail_tokens)(PROMPT)
    assert output.positions.tolist() == list(range(PROMPT_LEN))
    torch.testing.assert_close(output.logits, stock_model(PROMPT).logits, **CLOSE)


@torch.no_grad()
def test_anchors_covering_the_prompt_are_the_stock_model(
    speed_model: SpeedModels, stock_model: LlamaForCausalLM
) -> None:
    torch.testing.assert_close(speed_model(2, PROMPT_LEN, 1)(PROMPT).logits, stock_model(PROMPT).logits, **CLOSE)


@torch.no_grad()
def test_what_a_gap_token_is_at_the_cutoff_does_not_matter(speed_model: SpeedModels) -> None:
    model = speed_model(2, 1, 2)
    expected = model(PROMPT).logits

    def spoil_the_gap(module: torch.nn.Module, inputs: tuple[Tensor, ...], hidden: Tensor) -> Tensor:
        hidden = hidden.clone()
        hidden[:, 1:-2] = float("nan")
        return hidden

    handle = model.model.layers[1].register_forward_hook(spoil_the_gap)
    spoiled = model(PROMPT).logits
    handle.remove()
    assert torch.equal(spoiled, expected)


@torch.no_grad()
def test_the_deep_kv_of_anchors_depends_on_the_anchors_alone(speed_model: SpeedModels) -> None:
    model = speed_model(2, 4, 2)
    other = PROMPT.clone()
    other[:, 4:] += 1
    caches = [DynamicCache(), DynamicCache()]
    for input_ids, cache in zip((PROMPT, other[:, :-9]), caches, strict=True):
        model(input_ids, model.policy.deep_tokens(input_ids.shape[1]), cache)
    for layer in (2, 3):
        for kind in ("keys", "values"):
            first, second = (getattr(cache.layers[layer], kind)[:, :, :4] for cache in caches)
            torch.testing.assert_close(first, second, **CLOSE)


@torch.no_grad()
def test_the_gap_is_not_stored_in_the_deep_band(speed_model: SpeedModels) -> None:
    model, cache = speed_model(3, 1, 2), DynamicCache()
    deep = model.policy.deep_tokens(PROMPT_LEN)
    model(PROMPT, deep, cache)
    assert [cache.get_seq_length(layer) for layer in range(4)] == [PROMPT_LEN] * 3 + [PROMPT_LEN - deep.gap]


@torch.no_grad()
@pytest.mark.parametrize("chunk", [1, 5, 16])
def test_a_prompt_in_chunks_is_the_prompt_at_once(speed_model: SpeedModels, chunk: int) -> None:
    model, cache = speed_model(2, 4, 3), DynamicCache()
    deep = model.policy.deep_tokens(PROMPT_LEN)
    pieces = [model(piece, deep, cache) for piece in PROMPT.split(chunk, dim=1)]
    whole = model(PROMPT, deep)
    assert torch.equal(torch.cat([piece.positions for piece in pieces]), whole.positions)
    torch.testing.assert_close(torch.cat([piece.logits for piece in pieces], dim=1), whole.logits, **CLOSE)


@torch.no_grad()
def test_the_requests_of_a_batch_do_not_see_each_other(speed_model: SpeedModels) -> None:
    model = speed_model(3, 1, 2)
    batch = torch.cat([PROMPT, PROMPT.flip(1)])
    for row, logits in zip(batch, model(batch).logits, strict=True):
        torch.testing.assert_close(model(row[None]).logits[0], logits, **CLOSE)


def test_gradients_reach_every_layer(speed_model: SpeedModels) -> None:
    model = speed_model(3, 1, 2)
    model(PROMPT, model.policy.deep_tokens(PROMPT_LEN - 8), labels=PROMPT).loss.backward()
    without = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    model.zero_grad()
    assert without == []


@torch.no_grad()
def test_the_loss_is_that_of_the_tokens_after_deep_tokens(speed_model: SpeedModels) -> None:
    model = speed_model(2, 2, 1)
    response_start = PROMPT_LEN - 8
    deep = model.policy.deep_tokens(response_start)
    labels = PROMPT.clone()
    labels[:, :response_start] = IGNORED_LABEL
    output = model(PROMPT, deep, labels=labels)
    logprobs = output.logits[0, deep.index_of(response_start - 1) : -1].log_softmax(-1)
    expected = -logprobs.gather(1, PROMPT[0, response_start:, None]).mean()
    torch.testing.assert_close(output.loss, expected)


@torch.no_grad()
def test_labels_after_shallow_only_tokens_are_not_learned(speed_model: SpeedModels) -> None:
    model = speed_model(2, 1, 1)
    deep = model.policy.deep_tokens(PROMPT_LEN - 8)
    after_deep = torch.full_like(PROMPT, IGNORED_LABEL)
    for position in (0, *range(deep.deep_start, PROMPT_LEN - 1)):
        after_deep[:, position + 1] = PROMPT[:, position + 1]
    assert torch.equal(model(PROMPT, deep, labels=PROMPT).loss, model(PROMPT, deep, labels=after_deep).loss)


def test_transformers_own_generation_is_refused(speed_model: SpeedModels) -> None:
    with pytest.raises(NotImplementedError, match="generate_greedy"):
        speed_model(2).generate(PROMPT)


@pytest.mark.parametrize("attn_implementation", ["flash_attention_2", "flex_attention"])
def test_attention_that_takes_no_mask_is_refused(speed_model: SpeedModels, attn_implementation: str) -> None:
    checkpoint = speed_model(2).name_or_path
    with pytest.raises(ValueError, match="SpeedLlamaForCausalLM does not support"):
        SpeedLlamaForCausalLM.from_pretrained(checkpoint, attn_implementation=attn_implementation)


@torch.no_grad()
def test_eager_attention_gives_the_same_logits(speed_model: SpeedModels) -> None:
    model = speed_model(2, 1, 2)
    eager = SpeedLlamaForCausalLM.from_pretrained(model.name_or_path, attn_implementation="eager")
    torch.testing.assert_close(eager(PROMPT).logits, model(PROMPT).logits, **CLOSE)
