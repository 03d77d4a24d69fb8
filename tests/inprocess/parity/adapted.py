"""A checkpoint with LoRA adapters, and the reference for each: the model with the adapter merged into its weights."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from sglang.srt.lora.lora_registry import LoRARef
from sglang.srt.managers.io_struct import LoadLoRAAdapterReqInput, UnloadLoRAAdapterReqInput

from tests.inprocess.parity.expected import Ask, Expected, submit
from tests.scheduler_harness import Answer, SchedulerHarness, When
from tests.tiny_adapters import Deltas, TinyAdapter

AdaptedAsk = tuple[str | None, Ask]
"""The name of an adapter, None for the model without any, and a request."""


class Adapted:
    """Adapters are served under their names; a server starts with all of them, or loads some later."""

    def __init__(self, expected: Expected, directory: Path, adapters: Iterable[TinyAdapter]) -> None:
        self.base = expected
        self._directory = directory
        self._references: dict[str | None, Expected] = {None: expected}
        self._adapters: dict[str, TinyAdapter] = {}
        self.refs: dict[str, LoRARef] = {}
        for adapter in adapters:
            self.add(adapter)

    def add(self, adapter: TinyAdapter) -> LoRARef:
        """Write an adapter; from now on its name stands for it."""
        path = adapter.write(self._directory / uuid4().hex, self.base.model)
        self._adapters[adapter.name] = adapter
        self._references[adapter.name] = self._merged(adapter)
        self.refs[adapter.name] = LoRARef(
            lora_id=uuid4().hex, lora_name=adapter.name, lora_path=str(path), pinned=False
        )
        return self.refs[adapter.name]

    def move_to(self, other: Expected) -> None:
        """The same adapters are served beside the weights of another checkpoint from now on."""
        added = {name: adapter.deltas(self.base.model) for name, adapter in self._adapters.items()}
        self.base = other
        self._references = {None: other}
        for name, adapter in self._adapters.items():
            self._references[name] = self._merged(adapter, added[name])

    def settings(self, **more: Any) -> Mapping[str, Any]:
        """Of a scheduler that starts with all adapters, as SGLang resolves them."""
        return {
            "enable_lora": True,
            "enable_lora_overlap_loading": False,
            "lora_paths": list(self.refs.values()),
            "max_loras_per_batch": len(self.refs) + 1,
            **more,
        }

    def load(self, engine: SchedulerHarness, name: str, when: When = 0) -> None:
        ref = self.refs[name]
        request = LoadLoRAAdapterReqInput(lora_name=name, lora_path=ref.lora_path, lora_id=ref.lora_id)
        engine.send(request, when)

    def unload(self, engine: SchedulerHarness, name: str, when: When = 0) -> None:
        engine.send(UnloadLoRAAdapterReqInput(lora_name=name, lora_id=self.refs[name].lora_id), when)

    def submit(self, engine: SchedulerHarness, name: str | None, ask: Ask) -> str:
        return submit(engine, replace(ask, fields={**ask.fields, **self.fields(name)}))

    def fields(self, name: str | None) -> Mapping[str, Any]:
        """Of a request that has this adapter."""
        return {} if name is None else {"lora_id": self.refs[name].lora_id}

    def reference(self, name: str | None) -> Expected:
        """The model with this adapter merged into its weights."""
        return self._references[name]

    def require(self, answer: Answer, name: str | None, ask: Ask) -> None:
        try:
            self._references[name].require(answer, ask)
        except AssertionError as error:
            raise AssertionError(f"of adapter {name}: {error}") from error

    def answered(self, engine: SchedulerHarness, asks: Sequence[AdaptedAsk]) -> list[Answer]:
        """Submit all requests, run, and require of each answer that it is the reference's."""
        names = [self.submit(engine, adapter, ask) for adapter, ask in asks]
        answers = engine.run()
        for name, (adapter, ask) in zip(names, asks, strict=True):
            self.require(answers[name], adapter, ask)
        return [answers[name] for name in names]

    def greedy(self, name: str | None, ask: Ask) -> list[int]:
        return self._references[name].greedy(ask.prompt, ask.max_new_tokens)

    def _merged(self, adapter: TinyAdapter, deltas: Deltas | None = None) -> Expected:
        merged = copy.copy(self.base)
        merged.model, merged._steps, merged._scores = adapter.merged(self.base.model, deltas), {}, {}
        return merged
