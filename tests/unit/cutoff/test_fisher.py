"""The gates against finite differences, against the divergence that they stand for, and against arithmetic by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sglang_speed.lab.cutoff.fisher import KINDS, gate_gradients, importance_sums, open_gates, rows_by_kind
from sglang_speed.lab.cutoff.request import Request
from sglang_speed.method import DeepTokens
from sglang_speed.reference import SpeedLlamaConfig
from sglang_speed.reference.modeling import SpeedLlamaForCausalLM
from tests.unit.cutoff.conftest import NUM_LAYERS

PROMPT, RESPONSE = range(2)


def logprobs_with_gate(model: SpeedLlamaForCausalLM, request: Request, layer: int, rows: slice, value: float) -> Tensor:
    """The forward of a Llama written out, one layer's branches multiplied on some rows: [response_len, vocab]."""
    num_rows = request.num_rows
    gate = torch.ones(num_rows, 1, dtype=model.dtype)
    gate[rows] = value
    causal = torch.ones(num_rows, num_rows, dtype=torch.bool).tril()[None, None]
    hidden = model.model.embed_tokens(request.input_ids(model.device))
    rotary = model.model.rotary_emb(hidden, torch.arange(num_rows)[None])
    for index, block in enumerate(model.model.layers):
        factor = gate if index == layer else 1.0
        attended, _ = block.self_attn(block.input_layernorm(hidden), position_embeddings=rotary, attention_mask=causal)
        hidden = hidden + factor * attended
        hidden = hidden + factor * block.mlp(block.post_attention_layernorm(hidden))
    return model.lm_head(model.model.norm(hidden))[0, -request.response_len :].log_softmax(-1)


def rows_of(model: SpeedLlamaForCausalLM, request: Request) -> tuple[slice, slice]:
    return rows_by_kind(model.policy.deep_tokens(request.prompt_len))


@pytest.mark.parametrize("kind", [PROMPT, RESPONSE])
@pytest.mark.parametrize("layer", range(NUM_LAYERS))
def test_gradients_are_finite_differences(
    model: SpeedLlamaForCausalLM, request_of_text: Request, layer: int, kind: int
) -> None:
    targets = request_of_text.response_ids(model.device)
    deep_tokens = model.policy.deep_tokens(request_of_text.prompt_len)
    ours = gate_gradients(*open_gates(model, request_of_text), targets, deep_tokens)[kind, layer]
    step = 1e-3
    with torch.no_grad():
        above, below = (
            -logprobs_with_gate(model, request_of_text, layer, rows_of(model, request_of_text)[kind], 1 + side)
            .gather(1, targets[:, None])
            .sum()
            for side in (step, -step)
        )
    # transformers' norms round to float32, which leaves some 1e-6 of a loss near 60, by the step 1e-3
    assert float(ours) == pytest.approx(float(above - below) / (2 * step), rel=1e-3, abs=1e-3)
    if (layer, kind) != (NUM_LAYERS - 1, PROMPT):
        assert abs(float(ours)) > 0.05, "a derivative near 0 would compare nothing"


def test_importance_is_the_divergence_of_a_gate_that_is_slightly_closed(
    model: SpeedLlamaForCausalLM, request_of_text: Request
) -> None:
    """KL(p_1 || p_g) = (1 - g)^2 * I: drawn targets give the right side, two forwards the left."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([importance_sums(model, request_of_text, generator) for _ in range(60)])
    error = draws.std(0) / math.sqrt(len(draws))
    expected = torch.tensor(
        [
            [divergence_of_gate(model, request_of_text, layer, rows) for layer in range(NUM_LAYERS)]
            for rows in rows_of(model, request_of_text)
        ]
    )
    assert torch.all((draws.mean(0) - expected).abs() <= 4 * error + 1e-6), f"{draws.mean(0)=} {expected=} {error=}"


@torch.no_grad()
def divergence_of_gate(model: SpeedLlamaForCausalLM, request: Request, layer: int, rows: slice) -> float:
    """KL from the model with an open gate, by the square of how far the gate is closed."""
    closed_by = 1e-2
    full, closed = (logprobs_with_gate(model, request, layer, rows, gate) for gate in (1.0, 1.0 - closed_by))
    return float((full.exp() * (full - closed)).sum()) / closed_by**2


def test_a_layer_that_adds_nothing_has_no_importance(model: SpeedLlamaForCausalLM, request_of_text: Request) -> None:
    for branch in (model.model.layers[2].self_attn.o_proj, model.model.layers[2].mlp.down_proj):
        branch.weight.zero_()
    importance = importance_sums(model, request_of_text, torch.Generator().manual_seed(0))
    assert importance[:, 2].tolist() == [0.0, 0.0]
    assert torch.all(importance[:, [0, 1]] > 0)


def test_the_last_layer_of_prompt_tokens_reaches_nobody(model: SpeedLlamaForCausalLM, request_of_text: Request) -> None:
    importance = importance_sums(model, request_of_text, torch.Generator().manual_seed(0))
    assert importance[PROMPT, -1] == 0
    assert importance[RESPONSE, -1] > 0


def test_one_token_by_hand() -> None:
    """A hidden state (1, 0) to which the MLP adds (0, g): after the norm the logits are sqrt(2) (1, g) / |(1, g)|.

    At g = 1 both tokens have probability 1/2 and the logits change by (-1/2, 1/2), so the log-probability of either
    changes by 1/2: I = (1/2)^2 / 2 = 1/8, whichever target is drawn. Attention is off, so the prompt has none.
    """
    model = SpeedLlamaForCausalLM(SpeedLlamaConfig(**two_dimensions(), speed={"prefill_layers": 1, "tail_tokens": 1}))
    layer = model.model.layers[0]
    with torch.no_grad():
        for weight in (layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight):
            weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
        model.lm_head.weight.copy_(torch.eye(2))
        # the norm gives (sqrt(2), 0), the MLP silu(a) * b with a = b = sqrt(2)
        layer.mlp.gate_proj.weight.copy_(torch.tensor([[1.0, 0.0]]))
        layer.mlp.up_proj.weight.copy_(torch.tensor([[1.0, 0.0]]))
        root = math.sqrt(2.0)
        layer.mlp.down_proj.weight[1] = (1 + math.exp(-root)) / (root * root)
    importance = importance_sums(model.double(), Request((0, 1, 0, 1), 3), torch.Generator().manual_seed(0))
    assert importance[RESPONSE, 0] == pytest.approx(1 / 8, rel=1e-5)
    assert importance[PROMPT, 0] == 0


def two_dimensions() -> dict[str, object]:
    sizes = {"vocab_size": 2, "hidden_size": 2, "intermediate_size": 1, "num_hidden_layers": 1, "head_dim": 2}
    tokens = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None}
    return {**sizes, **tokens, "num_attention_heads": 1, "num_key_value_heads": 1, "rms_norm_eps": 1e-12}


def test_anchors_have_neither_gate() -> None:
    prompt, response = rows_by_kind(DeepTokens(num_anchors=1, deep_start=9))
    assert KINDS == ("prompt", "response")
    assert [list(range(12))[rows] for rows in (prompt, response)] == [[*range(1, 9)], [9, 10, 11]]


def test_the_gates_are_gone_after_a_forward(model: SpeedLlamaForCausalLM, request_of_text: Request) -> None:
    importance_sums(model, request_of_text, torch.Generator().manual_seed(0))
    hooks = [module for module in model.modules() if module._forward_hooks]
    assert hooks == []
