"""The importance of each layer for prompt tokens and for response tokens: the gated-residual Fisher estimate of POP.

The layers are transformers' own. Hooks multiply the output of their attention and MLP by gates, and are removed after
the forward pass.

A gate `g` multiplies both residual branches of layer `l`, in the rows of one kind of token only: the prompt tokens that
SPEED leaves out of the deep band, or the tokens of the decode phase (`DeepTokens`). `g = 1` has no effect; with `g = 0`
these tokens skip the layer, but their keys and values are still computed and visible. For responses `y` of the model to
prompts `x`,

    E_x KL(p_1(y | x) || p_g(y | x))  =  (1 - g)^2 / 2 * F  +  O((1 - g)^3),    F = E[(d log p_g(y | x) / dg)^2]

at `g = 1`, where the first derivative of the divergence vanishes and the second is the Fisher information. So the
importance `I_l = F / 2` is the divergence that skipping layer `l` would cause if it grew quadratically down to `g = 0`.
It ranks layers, as in arXiv 2602.03295, and is not a forecast.

Units: `log p(y | x)` is a sum over response tokens, whose derivatives `s_t` have mean 0 given the preceding tokens. So
the mixed terms vanish and `F = sum_t E[s_t^2]`, which is divided by the number of response tokens: nats per response
token, as the divergence in `cutoffs.py`. The same holds for a given text if a target is drawn from the model at every
position, independently: one backward pass through the sum of their losses gives all layers and both kinds. Targets are
always drawn, never taken from the text, whose squared gradients are not the model's Fisher information.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sglang_speed.lab.cutoff.request import Request
from sglang_speed.method import DeepTokens
from sglang_speed.models.hf_config import architecture_of_class, num_layers_of
from sglang_speed.reference.modeling import ReferenceModel

KINDS = ("prompt", "response")
# one draw is the square of a nearly normal number, with a standard deviation of 1.4 times its mean
NUM_DRAWS = 4


def importance_sums(model: ReferenceModel, request: Request, generator: torch.Generator) -> Tensor:
    """`(dL/dg)^2 / 2` of each kind and layer, summed over the response's tokens: [2, num_layers].

    Mean of NUM_DRAWS. generator: for the targets; on the model's device.
    """
    gates, logits = open_gates(model, request)
    draws = torch.multinomial(logits.detach().softmax(-1), NUM_DRAWS, replacement=True, generator=generator)
    deep_tokens = model.policy.deep_tokens(request.prompt_len)
    gradients = [gate_gradients(gates, logits, targets, deep_tokens) for targets in draws.T]
    return torch.stack(gradients).square().mean(0) / 2


def open_gates(model: ReferenceModel, request: Request) -> tuple[Tensor, Tensor]:
    """A gate of 1 for each layer and row, [num_layers, num_rows], and the response's logits as a function of them."""
    shape = (num_layers_of(model.config), request.num_rows)
    gates = torch.ones(shape, dtype=model.dtype, device=model.device, requires_grad=True)
    with gated(model, gates):
        return gates, response_logits(model, request)


def gate_gradients(gates: Tensor, logits: Tensor, targets: Tensor, deep_tokens: DeepTokens) -> Tensor:
    """Derivatives of the loss of `targets` with respect to the gate of each kind and layer: [2, num_layers], on CPU.

    All rows of a kind share a gate, so its derivative is the sum of theirs.
    """
    loss = functional.cross_entropy(logits, targets, reduction="sum")
    (by_row,) = torch.autograd.grad(loss, gates, retain_graph=True)
    return torch.stack([by_row[:, rows].double().sum(1) for rows in rows_by_kind(deep_tokens)]).cpu()


def rows_by_kind(deep_tokens: DeepTokens) -> tuple[slice, slice]:
    """The rows of each of KINDS.

    The tail predicts and passes all layers, so it counts as response. Anchors belong to neither: they pass all layers,
    but once for all requests. Without anchors and with a tail of 1, these are the two stages of POP.
    """
    return slice(deep_tokens.num_anchors, deep_tokens.deep_start), slice(deep_tokens.deep_start, None)


def response_logits(model: ReferenceModel, request: Request) -> Tensor:
    """Full-depth logits of the rows that predict the response: [response_len, vocab]."""
    logits = model.full_depth_logits(request.input_ids(model.device), request.response_len)[0]
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


@contextmanager
def gated(model: ReferenceModel, gates: Tensor) -> Iterator[None]:
    """Multiply both residual branches of every layer. gates: [num_layers, num_rows]."""
    names = architecture_of_class(model.config).branches
    handles = [
        getattr(layer, name).register_forward_hook(partial(_multiply, gate[:, None]))
        for layer, gate in zip(model.get_decoder().layers, gates, strict=True)
        for name in names
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _multiply(gate: Tensor, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
    """gate: [num_rows, 1]. Attention returns a tuple, whose first element is added to the residual stream."""
    if isinstance(output, tuple):
        return output[0] * gate, *output[1:]
    return output * gate
