"""How much each layer matters for prompt tokens and for response tokens: the gated-residual Fisher estimate of POP.

Owns the gates. The layers are transformers' own; hooks multiply what their attention and their MLP add to the
residual stream, and are gone when a forward is over.

Put a gate `g` on both residual branches of layer `l`, on the rows of one kind of token only: the prompt tokens that
SPEED leaves out of the deep band, or the tokens of the decode phase (`DeepTokens`). At `g = 1` it does nothing, at
`g = 0` these tokens skip the layer; keys and values are still computed from their rows and stay visible. With the
responses `y` that the model gives to the prompts `x`,

    E_x KL(p_1(y | x) || p_g(y | x))  =  (1 - g)^2 / 2 * F  +  O((1 - g)^3),    F = E[(d log p_g(y | x) / dg)^2]

at `g = 1`: the first derivative of the divergence vanishes there, and its second is the Fisher information. The
importance `I_l = F / 2` is therefore the divergence that skipping layer `l` would cause if it grew quadratically all
the way; it ranks layers, and is not a forecast (arXiv 2602.03295 takes it so).

Per sequence or per token: `log p(y | x)` is a sum over the response's tokens, and its derivatives `s_t` have mean 0
given what precedes them, so the mixed terms vanish and `F = sum_t E[s_t^2]`. It grows with the response, so it is
divided by the number of response tokens: nats per response token, the unit of the divergence in `cutoffs.py`. The
same holds where the text is given and a target is drawn from the model at every position, independently: one
backward through the sum of their losses gives all layers and both kinds. Targets are always drawn, never read from
the text: squared gradients of a text that the model would not write are not its Fisher information.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sglang_speed.lab.cutoff.model import final_logits
from sglang_speed.lab.cutoff.request import Request
from sglang_speed.method import DeepTokens, DepthBand
from sglang_speed.reference.modeling import SpeedLlamaForCausalLM

KINDS = ("prompt", "response")
# one draw is the square of a nearly normal number: its error is 1.4 times its mean, whatever the text
NUM_DRAWS = 4


def importance_sums(model: SpeedLlamaForCausalLM, request: Request, generator: torch.Generator) -> Tensor:
    """`(dL/dg)^2 / 2` of each kind and layer, summed over the response's tokens: [2, num_layers].

    The mean of NUM_DRAWS. generator: draws the targets; on the model's device.
    """
    gates, logits = open_gates(model, request)
    draws = torch.multinomial(logits.detach().softmax(-1), NUM_DRAWS, replacement=True, generator=generator)
    deep_tokens = model.policy.deep_tokens(request.prompt_len)
    gradients = [gate_gradients(gates, logits, targets, deep_tokens) for targets in draws.T]
    return torch.stack(gradients).square().mean(0) / 2


def open_gates(model: SpeedLlamaForCausalLM, request: Request) -> tuple[Tensor, Tensor]:
    """A gate of 1 for each layer and row, [num_layers, num_rows], and the response's logits as a function of them."""
    shape = (model.config.num_hidden_layers, request.num_rows)
    gates = torch.ones(shape, dtype=model.dtype, device=model.device, requires_grad=True)
    with gated(model, gates):
        return gates, response_logits(model, request)


def gate_gradients(gates: Tensor, logits: Tensor, targets: Tensor, deep_tokens: DeepTokens) -> Tensor:
    """Derivatives of the loss of `targets` by the gate of each kind and layer: [2, num_layers], on the CPU.

    The gate of a kind is one number on many rows, so its derivative is the sum of theirs.
    """
    loss = functional.cross_entropy(logits, targets, reduction="sum")
    (by_row,) = torch.autograd.grad(loss, gates, retain_graph=True)
    return torch.stack([by_row[:, rows].double().sum(1) for rows in rows_by_kind(deep_tokens)]).cpu()


def rows_by_kind(deep_tokens: DeepTokens) -> tuple[slice, slice]:
    """Rows whose gate is that of prompt tokens, and of response tokens, in the order of KINDS.

    The tail predicts and is computed in full, so it counts as response. Anchors are neither: they are computed in
    full too, but once for all requests. Without anchors and with a tail of 1 these are the two stages of POP.
    """
    return slice(deep_tokens.num_anchors, deep_tokens.deep_start), slice(deep_tokens.deep_start, None)


def response_logits(model: SpeedLlamaForCausalLM, request: Request) -> Tensor:
    """Logits at full depth of the rows that predict the response: [response_len, vocab]."""
    input_ids = request.input_ids(model.device)
    positions = torch.arange(request.num_rows, device=model.device)
    every_layer = DepthBand("all", 0, model.config.num_hidden_layers)
    hidden = model.run_band(every_layer, model.model.embed_tokens(input_ids), positions, None)
    return final_logits(model, hidden[0, -request.response_len :])


@contextmanager
def gated(model: SpeedLlamaForCausalLM, gates: Tensor) -> Iterator[None]:
    """Multiply both residual branches of every layer. gates: [num_layers, num_rows]."""
    handles = [
        branch.register_forward_hook(partial(_multiply, gate[:, None]))
        for layer, gate in zip(model.model.layers, gates, strict=True)
        for branch in (layer.self_attn, layer.mlp)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _multiply(gate: Tensor, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
    """gate: [num_rows, 1]. Attention returns a tuple, whose first element joins the residual stream."""
    if isinstance(output, tuple):
        return output[0] * gate, *output[1:]
    return output * gate
