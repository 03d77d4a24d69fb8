"""Which prompt tokens the last ones attend to most, in the layer below the cutoff.

Owns the scores and the choice, written down as they are defined. One request at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from sglang_speed.method.deep_tokens import Context
from sglang_speed.policy_config import Selection

Attend = Callable[..., tuple[Tensor, Any]]
"""An attention function of transformers."""


class Recording:
    """Hooks of a layer that keep the queries and keys of its attention, as they go into the scores.

    queries: [num_heads, num_rows, head_dim]. keys: [num_heads, num_rows, head_dim], float32 both.
    change: what else becomes of the layer's attention function while its hooks are set; None for nothing.
    """

    change: Callable[[Attend], Attend] | None = None

    def __init__(self) -> None:
        self._original: Callable[..., Any] | None = None

    def begin(self, *_: Any) -> None:
        """Before the layer: what it takes for its attention function keeps the arguments."""
        interface = self._original = ALL_ATTENTION_FUNCTIONS.get_interface
        ALL_ATTENTION_FUNCTIONS.get_interface = lambda *args: self._keeping(interface(*args))

    def end(self, *_: Any) -> None:
        ALL_ATTENTION_FUNCTIONS.get_interface = self._original

    def _keeping(self, attend: Attend) -> Attend:
        attend = attend if self.change is None else self.change(attend)

        def keep(module: Any, query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> Any:
            assert len(query) == 1, "tokens are selected for one request at a time"
            self.queries, self.keys = query[0].float(), key[0].float()
            self.keys = self.keys.repeat_interleave(len(self.queries) // len(self.keys), dim=0)
            self._scaling, self._cap = kwargs["scaling"], kwargs.get("softcap")
            return attend(module, query, key, *args, **kwargs)

        return keep

    def scores(self, end: int, selection: Selection) -> Tensor:
        """How much the window attends to each position before it, [end - window]."""
        return self.scores_of_heads(end, selection).sum(0)

    def scores_of_heads(self, end: int, selection: Selection) -> Tensor:
        """The same of each query head, [num_heads, end - window]."""
        window = min(selection.window, end)
        logits = self.queries[:, end - window : end] @ self.keys[:, :end].transpose(1, 2) * self._scaling
        if self._cap is not None:
            logits = self._cap * torch.tanh(logits / self._cap)
        is_later = torch.arange(end)[None] > torch.arange(end - window, end)[:, None]
        weights = logits.masked_fill(is_later.to(logits.device), float("-inf")).softmax(-1)
        of_heads = weights[:, :, : end - window].sum(1)
        if window == end:
            return of_heads
        return functional.max_pool1d(of_heads, selection.kernel, stride=1, padding=selection.kernel // 2)


def selected(context: Context, scores: Tensor) -> list[int]:
    """The deep positions of a context, ascending. scores: of its first positions."""
    chosen = [position for run in context.chosen for position in run]
    values, others = scores.tolist(), sorted({*range(len(scores))} - {*chosen})
    best = sorted(others, key=lambda position: (-values[position], position))
    return sorted(chosen + best[: context.num_selected])
