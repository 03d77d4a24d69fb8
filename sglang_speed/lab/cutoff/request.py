"""What is measured on: one request, whose response is already known.

Owns which rows of it are predicted. Under the strict rule every assistant turn of a chat is a request of its own,
with all that stands before it as its prompt.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Request:
    """token_ids: prompt and response. prompt_len: tokens of the prompt. uses_tools: tools are offered or called."""

    token_ids: tuple[int, ...]
    prompt_len: int
    uses_tools: bool = False

    def __post_init__(self) -> None:
        assert 0 < self.prompt_len < len(self.token_ids), f"{self.prompt_len=} of {len(self.token_ids)} tokens"

    @property
    def num_rows(self) -> int:
        """Rows that a model runs: all tokens but the last, which predicts nothing that is known."""
        return len(self.token_ids) - 1

    @property
    def response_len(self) -> int:
        """Tokens of the response; the last rows predict them, the first from the last prompt token."""
        return len(self.token_ids) - self.prompt_len

    def input_ids(self, device: torch.device) -> Tensor:
        """[1, num_rows]."""
        return torch.tensor([self.token_ids[:-1]], device=device)

    def response_ids(self, device: torch.device) -> Tensor:
        """[response_len]: what the last `response_len` rows should predict."""
        return torch.tensor(self.token_ids[self.prompt_len :], device=device)
