"""What differs between the supported versions of SGLang, as one interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor

Step = Callable[[Any], None]
"""Something that happens to SGLang's arguments while they are resolved."""


Beside = tuple[Tensor | None, ...] | None
"""What a layer returns beside hidden states; None for a layer that returns these alone."""


class Stream(NamedTuple):
    """What a decoder hands from one band to the next, for some rows.

    hidden: [num_rows, hidden_size]. residual: what its norm adds to them, of the same shape; None where the
    architecture keeps no residual apart. beside: what the last layer returned with the hidden states.
    """

    hidden: Tensor
    residual: Tensor | None
    beside: Beside = None

    def of_rows(self, rows: Tensor) -> Stream:
        def select(part: Tensor | None) -> Tensor | None:
            return None if part is None else part[rows]

        beside = None if self.beside is None else tuple(map(select, self.beside))
        return Stream(self.hidden[rows], select(self.residual), beside)

    @classmethod
    def joined(cls, parts: Sequence[Stream]) -> Stream:
        """The rows of several streams, one after the other."""

        def join(of_parts: Sequence[Tensor | None]) -> Tensor | None:
            found = [part for part in of_parts if part is not None]
            return torch.cat(found) if found else None

        if len(parts) == 1:
            return parts[0]
        besides = [part.beside for part in parts if part.beside is not None]
        beside = tuple(map(join, zip(*besides, strict=True))) if besides else None
        return cls(torch.cat([part.hidden for part in parts]), join([part.residual for part in parts]), beside)

    def as_returned(self, residual_is_beside: bool) -> Any:
        """What a layer with this output would return."""
        if self.beside is None:
            return self.hidden
        if residual_is_beside and self.residual is not None:
            return self.hidden, self.residual, *self.beside[1:]
        return self.hidden, *self.beside


class Host(ABC):
    """One version of SGLang."""

    # Arguments

    @abstractmethod
    def resolve(self, **arguments: Any) -> Any:
        """Arguments as a server with these flags resolves them, as `resolved` gives them. Raises what refuses them."""

    @abstractmethod
    def resolved(self, args: Any) -> Any:
        """Arguments as far as SGLang has resolved them, to read; with `get_model_config`, `get_attention_backends`."""

    @abstractmethod
    def change(self, args: Any, **values: Any) -> None:
        """Change arguments while they are resolved."""

    @abstractmethod
    def typed(self, args: Any, name: str) -> Any:
        """An argument as the user gave it."""

    @abstractmethod
    def default_attention_backend(self, args: Any) -> str:
        """The attention backend that SGLang would choose by itself."""

    @abstractmethod
    def has_flashinfer(self) -> bool:
        """Whether FlashInfer's attention runs on this machine."""

    @abstractmethod
    def on_resolution(self, step: str, kind: str, function: Step) -> None:
        """Let `function` run "before" or "after" a named step of SGLang's that resolves arguments."""

    @abstractmethod
    def extra_context_len(self, args: Any) -> int:
        """Columns of the request table beyond the context."""

    @abstractmethod
    def num_bound_ranks(self, args: Any) -> int:
        """Processes among which SGLang shares the cores of a CPU."""

    @abstractmethod
    def arguments_of_process(self) -> Any:
        """The arguments that this scheduler process was started with."""

    @abstractmethod
    def replica_of(self, scheduler: Any) -> int | None:
        """The number of a data-parallel replica; None where there is one only."""

    @abstractmethod
    def deciding_arguments(self, args: Any) -> dict[str, Any]:
        """By name, what decides how a rank schedules and computes, where ranks can be given different ones."""

    # Requests

    @abstractmethod
    def row_of(self, req: Any) -> int | None:
        """A request's row in the request table; None while it has none."""

    @abstractmethod
    def prefix_len(self, req: Any) -> int:
        """Tokens that a request that starts takes from the prefix cache."""

    @abstractmethod
    def extend_end(self, req: Any) -> int:
        """Where the next forward of a request's prompt ends."""

    @abstractmethod
    def end_extend_at(self, req: Any, end: int) -> None:
        """Let the next forward of a request's prompt end there."""

    @abstractmethod
    def namespace_of(self, req: Any) -> Hashable:
        """What keeps requests with the same tokens apart in the prefix cache."""

    @abstractmethod
    def take_readout(self, req: Any) -> list[int] | None:
        """Positions of its prompt at which a request reads logits, taken from it; None where there are none."""

    @abstractmethod
    def rows_in_use(self, checker: Any) -> set[int]:
        """Rows of the requests that the invariant checker knows to run."""

    @abstractmethod
    def prefers_low_priority(self, *args: Any) -> bool:
        """Whether a lower number is a higher priority; `args` are those of `preempt_to_schedule` after the request."""

    # Pools and attention

    @abstractmethod
    def finish_pool(self, pool: Any, first_layer: int) -> None:
        """Make a KV pool whose layers begin at `first_layer` ready for any attention backend."""

    @abstractmethod
    def index_translator(self, table: Tensor, allocator: Any, kv_pool: Any, device: str) -> Any:
        """What a backend finds slots with, over a request table of our own; None where backends read the table."""

    @abstractmethod
    def bind_batch(self, translator: Any, batch: Any, in_graph: bool) -> None:
        """Let a batch find its slots through a translator. in_graph: it has the tensors of a decode graph."""

    @abstractmethod
    def set_num_rows(self, batch: Any, num_rows: int) -> None:
        """Say how many rows a copy of a batch has, of which none is padding."""

    @abstractmethod
    def attention_context(self, backend: Any, batch: Any) -> AbstractContextManager[None]:
        """Until the block ends, layers attend through `backend`, over `batch`."""

    @abstractmethod
    def last_read(self, ends: Sequence[Any]) -> Any:
        """Of several backends' moments after which they read no shared tables, the last."""

    # Layers

    @abstractmethod
    def hand_on(self, stream: Stream, batch: Any) -> Any:
        """What a layer would return whose output is `stream`, in a batch that runs in the layers above it."""

    def as_first(self, stream: Stream, hidden: Tensor, batch: Any) -> Stream:
        """What a first layer gets, which knows no residual, and what else `stream` has. batch: a copy, to change."""
        if stream.residual is None or stream.beside is None:
            return Stream(hidden, None, stream.beside)
        return Stream(hidden, None, (None, *stream.beside[1:]))

    @abstractmethod
    def finish_layer(self, layer: Any) -> None:
        """Let a layer leave no sum over ranks to the layer above it, which runs on other rows."""

    # Messages

    @abstractmethod
    def require_readable(self, message: Any, plain: dict[str, Any]) -> None:
        """msgspec.ValidationError unless a message, with some fields replaced, can be read as it declares itself."""
