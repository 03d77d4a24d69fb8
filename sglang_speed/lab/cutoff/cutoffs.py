"""The cost of each cutoff for an untrained model. All cutoffs share one forward pass.

Visibility is that of the reference; full depth is the cutoff `L`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sglang_speed.lab.cutoff.model import final_logits
from sglang_speed.lab.cutoff.request import Request
from sglang_speed.models.hf_config import num_layers_of
from sglang_speed.reference.modeling import ReferenceModel, of_rows

MEASURES = ("loss", "divergence", "agreement")
NO_CONTEXT = 0
"""The cutoff at which left-out prompt tokens pass no layer, so no token sees them."""


@torch.no_grad()
def cutoff_sums(model: ReferenceModel, request: Request, cutoffs: Sequence[int]) -> Tensor:
    """MEASURES of every cutoff, summed over the response's tokens: [num_cutoffs, 3].

    loss: cross-entropy of the response, in nats. divergence: KL from full depth, in nats. agreement: number of tokens
    that full depth and this cutoff predict alike. cutoffs: ascending, from NO_CONTEXT to all layers.
    """
    assert cutoffs[-1] == num_layers_of(model.config), f"{cutoffs=} do not end with full depth"
    states = last_states(model, request, cutoffs)
    full = final_logits(model, states[-1]).log_softmax(-1)
    response = request.response_ids(model.device)
    # one cutoff at a time: log-probabilities are the largest tensors here
    return torch.stack(
        [compared(full, final_logits(model, hidden).log_softmax(-1), response) for hidden in states]
    ).cpu()


def last_states(model: ReferenceModel, request: Request, cutoffs: Sequence[int]) -> Tensor:
    """Output of the last layer in the rows that predict the response: [num_cutoffs, response_len, hidden_size].

    All tokens pass all layers once. At each cutoff, the deep rows branch off; the deep bands of all cutoffs then form
    one batch, with the same rows at the same positions.
    """
    anchors, decode_phase = model.policy.deep_tokens(request.prompt_len).computed_in(0, request.num_rows)
    branches = _Branches(torch.tensor([*anchors, *decode_phase], device=model.device), cutoffs)
    decoder = model.get_decoder()
    with ExitStack() as hooks:
        for index, layer in enumerate(decoder.layers):
            hooks.callback(layer.register_forward_pre_hook(partial(branches.run, index), with_kwargs=True).remove)
        hooks.callback(decoder.norm.register_forward_pre_hook(branches.end).remove)
        model.full_depth_logits(request.input_ids(model.device), 1)
    return branches.states[:, -request.response_len :]


class _Branches:
    """The deep rows of each cutoff, which run through the layers above it beside all tokens.

    rows: which they are. states: [num_branches, num_rows, hidden_size], of the cutoffs so far.
    """

    def __init__(self, rows: Tensor, cutoffs: Sequence[int]) -> None:
        self.rows = rows
        self.states = torch.empty(0, device=rows.device)
        self._cutoffs = cutoffs
        self._is_running = False

    def run(self, index: int, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before a layer runs all tokens."""
        if self._is_running:
            return
        hidden, *rest = args
        if index in self._cutoffs:
            self._begin(hidden)
        if len(self.states):
            own = {name: of_rows(name, value, self.rows, len(self.rows)) for name, value in kwargs.items()}
            self._is_running = True
            self.states = layer(self.states, *rest, **own)
            self._is_running = False

    def end(self, norm: nn.Module, args: tuple[Any, ...]) -> None:
        """After the last layer: full depth is the last cutoff."""
        self._begin(args[0])

    def _begin(self, hidden: Tensor) -> None:
        branch = hidden[:, self.rows]
        self.states = torch.cat([self.states, branch]) if len(self.states) else branch


def compared(full: Tensor, ours: Tensor, response: Tensor) -> Tensor:
    """MEASURES of one cutoff: [3]. full, ours: log-probabilities, [response_len, vocab]."""
    loss = functional.nll_loss(ours, response, reduction="sum")
    divergence = functional.kl_div(ours, full, reduction="sum", log_target=True)
    agreement = (full.argmax(-1) == ours.argmax(-1)).sum()
    return torch.stack([loss, divergence, agreement.to(loss.dtype)]).double()
