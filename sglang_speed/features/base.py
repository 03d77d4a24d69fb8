"""What a feature of SGLang says about itself.

Owns the contract. Must not know any single feature, nor what is served.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from sglang_speed import SUPPORTED_SGLANG

if TYPE_CHECKING:
    from sglang_speed.host.hook import Hook, ResolutionHook

FIX = "leave it out, or serve the full-depth checkpoint"


class Status(StrEnum):
    SERVED = "served"
    PARTLY = "partly served"
    REFUSED = "refused"


@dataclass(frozen=True)
class Refusal:
    """A setting that is refused at start-up.

    flag: as the user writes it.
    is_set: whether these ServerArgs ask for it.
    reason: why it is not served, as a part of the message.
    message: the whole message, where the flag's value decides the fix; None for the usual one.
    at_full_depth: whether it also holds for a checkpoint whose prompts pass all layers, which has no deep band.
    versions: of SGLang that have the setting.
    """

    flag: str
    is_set: Callable[[Any], bool]
    reason: str
    message: Callable[[Any], str] | None = None
    at_full_depth: bool = True
    versions: tuple[str, ...] = SUPPORTED_SGLANG

    def explain(self, args: Any) -> str:
        """The message for the user: what is refused, why, and the fix."""
        if self.message is not None:
            return self.message(args)
        return f"{self.flag} is not supported with a SPEED model ({self.reason}); {FIX}"


@dataclass(frozen=True)
class Feature:
    """One feature of SGLang: what of it is served, and what is refused.

    name: as docs/features.md lists it.
    served: flags, or ways of use, that are proven with two bands.
    proof: paths of the tests that prove them, from the root of the repository; needed where anything is served.
    refusals: flags that are refused, the first one that is set names the reason.
    hooks, resolution_hooks: changes to SGLang that what is served needs; installed for every model, so they leave other
        models alone.
    gpu: what of it has run on a GPU; nothing where it is empty.
    since: the version of this package that serves it first.
    note: what a reader of the table must know besides.
    """

    name: str
    served: tuple[str, ...] = ()
    proof: tuple[str, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    hooks: tuple[Hook, ...] = ()
    resolution_hooks: tuple[ResolutionHook, ...] = ()
    gpu: str = ""
    since: str = "0.1.0"
    note: str = ""

    @property
    def status(self) -> Status:
        if not self.served:
            return Status.REFUSED
        return Status.PARTLY if self.refusals else Status.SERVED


def on(name: str) -> Callable[[Any], bool]:
    """Set where the argument `name` has any value but an empty one."""
    return lambda args: bool(getattr(args, name))


def asks_for_adapters(args: Any) -> bool:
    """SGLang turns `enable_lora` on where it checks its arguments, which is later."""
    return bool(args.enable_lora or (args.enable_lora is None and args.lora_paths))


def not_beside(
    one: str, other: str, is_set: Callable[[Any], bool], reason: str, versions: tuple[str, ...] = SUPPORTED_SGLANG
) -> Refusal:
    """Of two settings, each of which is served without the other."""
    message = f"{one} is not supported with {other} and a SPEED model ({reason}); leave one of them out"
    return Refusal(f"{one} with {other}", is_set, reason, message=lambda _: message, versions=versions)


def above_one(name: str) -> Callable[[Any], bool]:
    """Set where the number `name` is larger than one."""
    return lambda args: getattr(args, name) > 1


def is_not(name: str, *values: Any) -> Callable[[Any], bool]:
    """Set where the argument `name` has none of the values that are served."""
    return lambda args: getattr(args, name) not in values
