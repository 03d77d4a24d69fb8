"""How a change to SGLang is declared.

Owns the shape of a declaration. Must not apply one: `serving`, `features`, `guard` and `platforms` list them, the
plugin applies them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sglang.srt.plugins.hook_registry import HookType


@dataclass(frozen=True)
class Hook:
    """One change to a function, method or class of SGLang.

    target: dotted path of what is changed, e.g. "sglang.srt.some_module.Thing.build".
    parameters: names of the target's parameters in order, as the tested SGLang has them.
    kind: when `function` runs; SGLang's `HookRegistry` says with which arguments.
    function: what runs before, after, around or instead of the target.
    reason: why no platform method or registry of SGLang does it.
    remove_when: what has to change upstream for the hook to go.
    """

    target: str
    parameters: tuple[str, ...]
    kind: HookType
    function: Callable[..., Any]
    reason: str
    remove_when: str
