"""Rows behind a context that see a part of it only, in every layer and KV head another one.

Attention of these rows is computed again, row by row and head by head, over what they see.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sglang_speed.policy_config import Selection
from sglang_speed.reference.selected import Attend, Recording


@dataclass(frozen=True)
class Thinned:
    """What rows behind a context see of it in a layer.

    boundary: rows of the context in the layer. num_first, num_kept: anchors, and all that is seen.
    num_groups: KV heads, of which each has its own; latents are one.
    """

    boundary: int
    num_first: int
    num_kept: int
    num_groups: int
    selection: Selection

    def kept(self, recording: Recording) -> Tensor:
        """Places that each KV head keeps, ascending: [num_groups, num_kept]."""
        window = min(self.selection.window, self.boundary)
        scores = recording.scores_of_heads(self.boundary, self.selection)
        chosen = {*range(self.num_first), *range(self.boundary - window, self.boundary)}
        kept = []
        for of_group in (
            scores.reshape(self.num_groups, len(scores) // self.num_groups, scores.shape[-1]).sum(1).tolist()
        ):
            others = sorted({*range(len(of_group))} - chosen)
            best = sorted(others, key=lambda place: (-of_group[place], place))[: self.num_kept - len(chosen)]
            kept.append(sorted({*chosen, *best}))
        return torch.tensor(kept)

    def change(self, recording: Recording, attend: Attend) -> Attend:
        """An attention function in which rows behind the boundary see what is kept, and each other."""

        def thinned(module: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
            out, *more = attend(module, query, key, value, *args, **kwargs)
            if query.shape[2] > self.boundary:
                kept = self.kept(recording)
                out = out.clone()
                for head in range(query.shape[1]):
                    own = head * len(kept) // query.shape[1]
                    shared = head * key.shape[1] // query.shape[1]
                    for row in range(self.boundary, query.shape[2]):
                        seen = torch.cat([kept[own], torch.arange(self.boundary, row + 1)])
                        places = seen if kwargs.get("sliding_window") is None else seen[-kwargs["sliding_window"] :]
                        weights = _weights(query[0, head, row], key[0, shared, places], head, kwargs)
                        out[0, row, head] = weights.to(value.dtype) @ value[0, shared, places]
            return out, *more

        return thinned


def _weights(query: Tensor, keys: Tensor, head: int, kwargs: dict[str, Any]) -> Tensor:
    """Of one row in one head. keys: [num_seen, head_dim]."""
    logits = keys.float() @ query.float() * kwargs["scaling"]
    if kwargs.get("softcap") is not None:
        logits = kwargs["softcap"] * torch.tanh(logits / kwargs["softcap"])
    if kwargs.get("s_aux") is not None:
        return torch.cat([logits, kwargs["s_aux"][head : head + 1].float()]).softmax(-1)[:-1]
    return logits.softmax(-1)
