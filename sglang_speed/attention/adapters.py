"""LoRA adapters in deep bands: which adapter each of their rows has.

SGLang's LoRA layers read that from their backend, which SGLang fills in once for the rows of a whole batch. What runs
on some of these rows, in another order or in pieces, has its own: it is prepared beside the batch's, by SGLang's own
code, and lies in its place while such rows run. In a decode step, and where drafts are verified, a deep band has all
rows, and reads the batch's.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sglang_speed.attention.deep_batch import DeepBatch


class RowAdapters:
    """What SGLang's LoRA layers read of some rows."""

    def __init__(self, backend: Any, fields: Mapping[str, Any]) -> None:
        """fields: of `backend`, which the layers read."""
        self._backend, self._fields = backend, fields

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Until the block ends, layers read these."""
        own = vars(self._backend)
        held = {name: own[name] for name in self._fields}
        own.update(self._fields)
        try:
            yield
        finally:
            own.update(held)


class Adapters:
    """The adapters of a server. manager: SGLang's LoRAManager."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager

    def planned(self, batches: Sequence[DeepBatch]) -> list[DeepBatch]:
        """The same batches, each with the adapters of its rows where these are not the rows of the whole batch. All
        copies to the device are made here, before the forward."""
        return [replace(batch, adapters=self._of_rows(batch)) for batch in batches]

    def _of_rows(self, batch: DeepBatch) -> RowAdapters | None:
        if batch.forward_batch is None or not has_prompts(batch.forward_batch.forward_mode):
            return None
        rows, backend = copy.copy(batch.forward_batch), self._manager.lora_backend
        rows.return_logprob = False  # logits are of the whole batch
        held = dict(vars(backend))
        try:
            self._manager.prepare_lora_batch(rows)
            return RowAdapters(
                backend, {name: value for name, value in vars(backend).items() if value is not held[name]}
            )
        finally:
            vars(backend).update(held)


def has_prompts(mode: Any) -> bool:
    """Whether a forward takes rows of prompts. SGLang calls the verification of drafts an extend too."""
    return bool(mode.is_extend() and not mode.is_target_verify())
