"""Every cutoff at once against the reference converted at that cutoff, one at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from sglang_speed.checkpoints.convert import convert
from sglang_speed.lab.cutoff.cutoffs import MEASURES, NO_CONTEXT, cutoff_sums
from sglang_speed.lab.cutoff.fisher import importance_sums
from sglang_speed.lab.cutoff.model import load_model
from sglang_speed.lab.cutoff.policies import setting_sums, settings_of
from sglang_speed.lab.cutoff.request import Request
from sglang_speed.reference.generation import steps_along
from tests.catalogue import MODELS
from tests.tiny_models import make_tiny_model
from tests.unit.cutoff.conftest import NUM_LAYERS

CUTOFFS = [NO_CONTEXT, 1, 2, 3, NUM_LAYERS]
# float32 through four layers, summed over some ten tokens
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def stock_logprobs(directory: Path, token_ids: tuple[int, ...]) -> Tensor:
    stock = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager")
    logits: Tensor = stock(torch.tensor([token_ids])).logits[0]
    return logits.log_softmax(-1)


def expected(full: Tensor, ours: Tensor, request: Request) -> list[float]:
    response = torch.tensor(request.token_ids[request.prompt_len :])
    loss = -ours.gather(1, response[:, None]).sum()
    divergence = (full.exp() * (full - ours)).sum()
    agreement = (full.argmax(1) == ours.argmax(1)).sum()
    return [float(loss), float(divergence), float(agreement)]


@torch.no_grad()
@pytest.mark.parametrize(("anchor_tokens", "tail_tokens"), [(0, 1), (1, 3), (4, 8)])
def test_each_cutoff_is_the_reference_converted_at_it(
    plain_directory: Path, request_of_text: Request, tmp_path: Path, anchor_tokens: int, tail_tokens: int
) -> None:
    require_references(plain_directory, request_of_text, tmp_path, CUTOFFS, anchor_tokens, tail_tokens)


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["qwen3_moe", "gemma2", "granite", "deepseek_v3", "cohere"])
def test_layers_of_all_kinds_are_measured(architecture: str, request_of_text: Request, tmp_path: Path) -> None:
    """Experts, windows, capped scores, scaled embeddings and logits, latents, parallel branches."""
    directory = make_tiny_model(tmp_path / "plain", **MODELS[architecture])
    require_references(directory, request_of_text, tmp_path, [NO_CONTEXT, 3, 8], 1, 3)
    model = load_model(directory, anchor_tokens=1, tail_tokens=3)
    with torch.enable_grad():
        _, of_response = importance_sums(model, request_of_text, torch.Generator().manual_seed(0))
    assert of_response.min() > 1e-3, "a gate in front of a norm changes nothing"


def require_references(
    directory: Path, request: Request, work: Path, cutoffs: list[int], anchor_tokens: int, tail_tokens: int
) -> None:
    visibility = {"anchor_tokens": anchor_tokens, "tail_tokens": tail_tokens}
    sums = cutoff_sums(load_model(directory, **visibility), request, cutoffs)
    token_ids, prompt_len = request.token_ids, request.prompt_len
    full = stock_logprobs(directory, token_ids)[prompt_len - 1 : -1]
    for cutoff, ours in zip(cutoffs[1:], sums[1:], strict=True):
        made = convert(directory, work / str(cutoff), prefill_layers=cutoff, **visibility)
        reference = AutoModelForCausalLM.from_pretrained(made.path)
        deep_tokens = reference.policy.deep_tokens(prompt_len)
        logits = reference(torch.tensor([token_ids]), deep_tokens).logits[0]
        logprobs = logits[deep_tokens.index_of(prompt_len - 1) : -1].log_softmax(-1)
        torch.testing.assert_close(ours.tolist(), expected(full, logprobs, request), **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "deepseek_v3"])
def test_each_setting_of_a_policy_is_the_reference_converted_to_it(
    architecture: str, request_of_text: Request, tmp_path: Path
) -> None:
    directory = make_tiny_model(tmp_path / "plain", **MODELS[architecture])
    written = ("speed", "speed,tail_tokens=8", "pop", "fastkv,select_ratio=0.4,select_window=2")
    settings = settings_of((*written, "fastkv,prefill_layers=4,kv_keep=0.2,select_window=2"), [3, 5], 8, directory)
    assert [one.bands.prefill_layers for one in settings] == [5, 3, 5, 3, 5, 3, 4]
    model = load_model(directory, anchor_tokens=1, tail_tokens=3)
    before = cutoff_sums(model, request_of_text, [3, 8])
    sums = setting_sums(model, request_of_text, settings)
    assert torch.equal(cutoff_sums(model, request_of_text, [3, 8]), before), "the model is as it was"
    token_ids, prompt_len = request_of_text.token_ids, request_of_text.prompt_len
    full = stock_logprobs(directory, token_ids)[prompt_len - 1 : -1]
    for number, (setting, ours) in enumerate(zip(settings, sums, strict=True)):
        made = convert(directory, tmp_path / str(number), **setting.bands.to_dict())
        reference = AutoModelForCausalLM.from_pretrained(made.path)
        steps = steps_along(reference, token_ids[:prompt_len], token_ids[prompt_len:])
        logprobs = torch.stack([step.logits for step in steps]).log_softmax(-1)
        torch.testing.assert_close(ours.tolist(), expected(full, logprobs, request_of_text), **CLOSE)
    assert len({round(divergence, 4) for _, divergence, _ in sums.tolist()}) == len(sums), "settings that agree"


@torch.no_grad()
def test_without_context_the_left_out_tokens_might_as_well_not_be_there(
    plain_directory: Path, request_of_text: Request
) -> None:
    """A stock model that is given the deep tokens alone, at their positions."""
    model = load_model(plain_directory, anchor_tokens=1, tail_tokens=3)
    prompt_len = request_of_text.prompt_len
    positions = [0, *range(prompt_len - 3, len(request_of_text.token_ids))]
    kept = torch.tensor([[request_of_text.token_ids[position] for position in positions]])
    stock = LlamaForCausalLM.from_pretrained(plain_directory)
    logits = stock(kept, position_ids=torch.tensor([positions])).logits[0, positions.index(prompt_len - 1) : -1]
    full = stock_logprobs(plain_directory, request_of_text.token_ids)[prompt_len - 1 : -1]
    ours = cutoff_sums(model, request_of_text, CUTOFFS)[0]
    torch.testing.assert_close(ours.tolist(), expected(full, logits.log_softmax(-1), request_of_text), **CLOSE)


def test_full_depth_diverges_by_exactly_nothing(plain_directory: Path, request_of_text: Request) -> None:
    model = load_model(plain_directory, anchor_tokens=1, tail_tokens=3)
    loss, divergence, agreement = cutoff_sums(model, request_of_text, CUTOFFS)[-1].tolist()
    assert (divergence, agreement) == (0.0, request_of_text.response_len)
    assert loss > 0


def test_the_measured_cutoffs_do_not_change_each_other(plain_directory: Path, request_of_text: Request) -> None:
    model = load_model(plain_directory, anchor_tokens=1, tail_tokens=3)
    together = cutoff_sums(model, request_of_text, CUTOFFS)
    alone = cutoff_sums(model, request_of_text, [2, NUM_LAYERS])[0]
    torch.testing.assert_close(alone, together[2], rtol=1e-5, atol=1e-5)
    assert together[:, MEASURES.index("divergence")].diff().abs().min() > 1e-3, "cutoffs that agree compare nothing"
