"""How a change to SGLang is declared.

Owns the shape of a declaration. Must not apply one: `serving`, `features`, `guard` and `platforms` list them, the
plugin applies them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sglang.srt.plugins.hook_registry import HookType

Parameters = tuple[str, ...]


@dataclass(frozen=True)
class Hook:
    """One change to a function, method or class of SGLang.

    target: dotted path of what is changed, e.g. "sglang.srt.some_module.Thing.build".
    parameters: names of the target's parameters in order; by version where versions differ, and the versions that are
        left out need no change.
    kind: when `function` runs; SGLang's `HookRegistry` says with which arguments.
    function: what runs before, after, around or instead of the target.
    reason: why no platform method or registry of SGLang does it.
    remove_when: what has to change upstream for the hook to go.
    """

    target: str
    parameters: Parameters | Mapping[str, Parameters]
    kind: HookType
    function: Callable[..., Any]
    reason: str
    remove_when: str

    def parameters_in(self, version: str) -> Parameters | None:
        """The target's parameters in a version; None where that version needs no change."""
        return self.parameters if isinstance(self.parameters, tuple) else self.parameters.get(version)


@dataclass(frozen=True)
class ResolutionHook:
    """One addition to a step in which SGLang resolves its arguments.

    step: its name. kind: "before" or "after". function: takes the arguments; see `Host.resolved` and `Host.change`.
    versions: those that have such steps; older ones have a Hook instead.
    """

    step: str
    kind: str
    function: Callable[[Any], None]
    reason: str
    versions: tuple[str, ...]
