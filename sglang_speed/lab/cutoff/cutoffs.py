"""The cost of each cutoff for an untrained model. All cutoffs share one forward pass.

Visibility is that of the reference; full depth is the cutoff `L`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from sglang_speed.lab.cutoff.model import final_logits
from sglang_speed.lab.cutoff.request import Request
from sglang_speed.method import DepthBand
from sglang_speed.reference.modeling import ReferenceModel

MEASURES = ("loss", "divergence", "agreement")
NO_CONTEXT = 0
"""The cutoff at which left-out prompt tokens pass no layer, so no token sees them."""


@torch.no_grad()
def cutoff_sums(model: ReferenceModel, request: Request, cutoffs: Sequence[int]) -> Tensor:
    """MEASURES of every cutoff, summed over the response's tokens: [num_cutoffs, 3].

    loss: cross-entropy of the response, in nats. divergence: KL from full depth, in nats. agreement: number of tokens
    that full depth and this cutoff predict alike. cutoffs: ascending, from NO_CONTEXT to all layers.
    """
    assert cutoffs[-1] == model.config.num_hidden_layers, f"{cutoffs=} do not end with full depth"
    states = last_states(model, request, cutoffs)
    full = final_logits(model, states[-1]).log_softmax(-1)
    response = request.response_ids(model.device)
    # one cutoff at a time: log-probabilities are the largest tensors here
    return torch.stack(
        [_compare(full, final_logits(model, hidden).log_softmax(-1), response) for hidden in states]
    ).cpu()


def last_states(model: ReferenceModel, request: Request, cutoffs: Sequence[int]) -> Tensor:
    """Output of the last layer in the rows that predict the response: [num_cutoffs, response_len, hidden_size].

    All tokens pass all layers once. At each cutoff, the deep rows branch off; the deep bands of all cutoffs then form
    one batch, with the same rows at the same positions.
    """
    positions = torch.arange(request.num_rows, device=model.device)
    anchors, decode_phase = model.policy.deep_tokens(request.prompt_len).computed_in(0, request.num_rows)
    deep_rows = torch.tensor([*anchors, *decode_phase], device=model.device)
    hidden = model.model.embed_tokens(request.input_ids(model.device))
    deep = hidden[:0, deep_rows]
    for index in range(model.config.num_hidden_layers):
        layer = DepthBand("one layer", index, index + 1)
        if index in cutoffs:
            deep = torch.cat([deep, hidden[:, deep_rows]])
        if len(deep):
            deep = model.run_band(layer, deep, positions[deep_rows], None)
        hidden = model.run_band(layer, hidden, positions, None)
    return torch.cat([deep, hidden[:, deep_rows]])[:, -request.response_len :]


def _compare(full: Tensor, ours: Tensor, response: Tensor) -> Tensor:
    """MEASURES of one cutoff: [3]. full, ours: log-probabilities, [response_len, vocab]."""
    loss = functional.nll_loss(ours, response, reduction="sum")
    divergence = functional.kl_div(ours, full, reduction="sum", log_target=True)
    agreement = (full.argmax(-1) == ours.argmax(-1)).sum()
    return torch.stack([loss, divergence, agreement.to(loss.dtype)]).double()
