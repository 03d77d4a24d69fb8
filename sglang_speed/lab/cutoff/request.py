"""A request with a known response, on which cutoffs are measured.

Under the strict rule, every assistant turn of a chat is a separate request, with everything before it as its prompt.
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
        """Rows that the model runs: all tokens but the last, whose successor is unknown."""
        return len(self.token_ids) - 1

    @property
    def response_len(self) -> int:
        """Tokens of the response. The last rows predict them, beginning with the last prompt token."""
        return len(self.token_ids) - self.prompt_len

    def input_ids(self, device: torch.device) -> Tensor:
        """[1, num_rows]."""
        return torch.tensor([self.token_ids[:-1]], device=device)

    def response_ids(self, device: torch.device) -> Tensor:
        """[response_len]: targets of the last `response_len` rows."""
        return torch.tensor(self.token_ids[self.prompt_len :], device=device)
