"""How a field that this package sets on an object of SGLang's is declared, and the one way to set it.

A hook changes what a function does; a field changes what an object carries. Both are changes to the host, so both are
in a list with their reason.
"""

from __future__ import annotations

import inspect
import pkgutil
from dataclasses import dataclass
from typing import Any

from sglang_speed import SUPPORTED_SGLANG
from sglang_speed.errors import HostMismatch
from sglang_speed.host.versions import installed_version


@dataclass(frozen=True)
class Field:
    """A field of SGLang's objects that is ours, or one of its own that gets another value.

    owner: dotted path of the class. name: of the field, or of the method that an object replaces.
    is_new: the class must not have it yet; otherwise it must.
    reason: why no argument or registry of SGLang carries the value. versions: of SGLang in which it is set.
    """

    owner: str
    name: str
    is_new: bool
    reason: str
    versions: tuple[str, ...] = SUPPORTED_SGLANG

    def check(self) -> None:
        """HostMismatch where SGLang has a field of that name and should not, or lacks one that is replaced."""
        if installed_version() not in self.versions:
            return
        owner = pkgutil.resolve_name(self.owner)
        names = {*dir(owner), *getattr(owner, "__annotations__", {}), *getattr(owner, "__dataclass_fields__", {})}
        names |= {*inspect.signature(owner.__init__).parameters}
        if (self.name in names) == self.is_new:
            raise HostMismatch(
                f"sglang_speed: {self.owner} {'already has' if self.is_new else 'has no'} {self.name}, which is "
                f"{'added' if self.is_new else 'replaced'} here: {self.reason}"
            )

    def set(self, target: Any, value: Any) -> None:
        setattr(target, self.name, value)

    def get(self, target: Any, default: Any) -> Any:
        return getattr(target, self.name, default)
