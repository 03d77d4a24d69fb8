"""The host: is it the SGLang that was tested, and is every declared change to it in place?

SGLang logs and swallows a plugin's errors, so a half-applied plugin would serve a checkpoint at another depth
without a word. The plugin checks before it installs, the model checks before it loads.
"""

from __future__ import annotations

import inspect
import pkgutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from itertools import chain
from typing import Any

from sglang.srt.plugins.hook_registry import HookRegistry, HookType

from sglang_speed import TESTED_SGLANG
from sglang_speed.errors import HostMismatch
from sglang_speed.host.hook import Hook

_installed: dict[str, tuple[Hook, ...]] = {}
"""By owner, in this process. SGLang applies what is registered once, when all plugins have run."""


def check_version() -> None:
    """Raise HostMismatch unless the tested SGLang is installed."""
    found = version("sglang")
    if found != TESTED_SGLANG:
        raise HostMismatch(
            f"sglang_speed is tested with sglang=={TESTED_SGLANG} and changes parts of it, and {found} is installed: "
            f"install sglang=={TESTED_SGLANG} to serve SPEED models"
        )


def check_target(hook: Hook) -> None:
    """Raise HostMismatch unless a hook's target exists and takes the expected parameters."""
    try:
        target = pkgutil.resolve_name(hook.target)
    except (ImportError, AttributeError) as error:
        raise HostMismatch(f"sglang_speed: {hook.target} is not in this SGLang ({error})") from error
    found = tuple(inspect.signature(_plain(target)).parameters)
    if found != hook.parameters:
        raise HostMismatch(f"sglang_speed: {hook.target} takes {found}, expected {hook.parameters}")


def install(owners: Mapping[str, tuple[Hook, ...]]) -> None:
    """Register the hooks of some owners.

    HostMismatch, and none is registered, where one does not fit or two change the same target.
    """
    hooks = tuple(chain(*owners.values()))
    targets = Counter(hook.target for hook in (*chain(*_installed.values()), *hooks))
    twice = [target for target, count in targets.items() if count > 1]
    if twice:
        raise HostMismatch(f"sglang_speed: {', '.join(twice)} is changed twice")
    for hook in hooks:
        check_target(hook)
    for hook in hooks:
        HookRegistry.register(hook.target, hook.function, hook.kind)
    _installed.update(owners)


def require_host(owner: str) -> None:
    """Raise HostMismatch unless the version is right, and all hooks of `owner` and of every other are in place."""
    check_version()
    if owner not in _installed:
        raise HostMismatch(
            f"sglang_speed: its changes to SGLang for {owner} were not installed; look for the first error in the log "
            "above, and whether SGLANG_PLUGINS or SGLANG_PLATFORM leaves out sglang_speed"
        )
    require_in_place(chain(*_installed.values()))


def require_in_place(hooks: Iterable[Hook]) -> None:
    hooks = tuple(hooks)
    missing = [hook.target for hook in hooks if not is_in_place(hook)]
    if missing:
        raise HostMismatch(
            f"sglang_speed: {len(missing)} of its {len(hooks)} changes to SGLang are not in place: "
            f"{', '.join(missing)}; look for the first error in the log above"
        )


def is_in_place(hook: Hook) -> bool:
    """Whether calling the target runs the hook, under every name that a module has for the target."""
    wrapped = list(_chain(_plain(pkgutil.resolve_name(hook.target))))
    if not any(_holds(function, hook.function) for function in wrapped):
        return False
    return not _is_replaced(hook) and not _stale_names(wrapped)


def _is_replaced(hook: Hook) -> bool:
    """Whether another plugin replaced the target after we did: the last replacement is the one that runs."""
    replacements = [function for kind, function, _ in HookRegistry._hooks[hook.target] if kind is HookType.REPLACE]
    return hook.kind is HookType.REPLACE and replacements[-1:] != [hook.function]


def _chain(function: Any) -> Iterator[Any]:
    """A function and all that it wraps, outermost first."""
    while function is not None:
        yield function
        function = getattr(function, "__wrapped__", None)


def _holds(function: Any, hook_function: Any) -> bool:
    cells = getattr(function, "__closure__", None) or ()
    return function is hook_function or any(cell.cell_contents is hook_function for cell in cells)


def _stale_names(chain: list[Any]) -> list[str]:
    """Modules that imported the target by name before it was changed and still call it as it was."""
    inner = {id(function) for function in chain[1:]}
    return [
        f"{name}.{key}"
        for name, module in list(sys.modules.items())
        if name.startswith("sglang.")
        for key, value in list(vars(module).items())
        if id(value) in inner
    ]


def _plain(target: Any) -> Any:
    """A class method as the function that it is."""
    return getattr(target, "__func__", target)
