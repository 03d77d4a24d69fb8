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
from itertools import chain
from typing import Any

from sglang.srt.plugins.hook_registry import HookRegistry, HookType

from sglang_speed.errors import HostMismatch
from sglang_speed.host.adapter import HOST
from sglang_speed.host.field import Field
from sglang_speed.host.hook import Hook, ResolutionHook
from sglang_speed.host.versions import check_version

_installed: dict[str, tuple[Hook, ...]] = {}
"""By owner, in this process. SGLang applies what is registered once, when all plugins have run."""
_resolution_hooks: set[ResolutionHook] = set()
"""Steps that have ours. SGLang keeps what is registered for as long as the process lives."""


def needed(hooks: Iterable[Hook]) -> tuple[Hook, ...]:
    """Those that the installed version needs."""
    version = check_version()
    return tuple(hook for hook in hooks if hook.parameters_in(version) is not None)


def check_target(hook: Hook) -> None:
    """Raise HostMismatch unless a hook's target exists and takes the expected parameters."""
    try:
        target = pkgutil.resolve_name(hook.target)
    except (ImportError, AttributeError) as error:
        raise HostMismatch(f"sglang_speed: {hook.target} is not in this SGLang ({error})") from error
    found = tuple(inspect.signature(_plain(target)).parameters)
    expected = hook.parameters_in(check_version())
    if found != expected:
        raise HostMismatch(f"sglang_speed: {hook.target} takes {found}, expected {expected}")


def install(owners: Mapping[str, tuple[Hook, ...]]) -> None:
    """Register the hooks of some owners.

    HostMismatch, and none is registered, where one does not fit or two change the same target.
    """
    owners = {owner: needed(hooks) for owner, hooks in owners.items()}
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


def install_resolution_hooks(hooks: Iterable[ResolutionHook]) -> None:
    """Register the additions to steps in which the installed SGLang resolves its arguments; once in a process."""
    for hook in hooks:
        if check_version() in hook.versions and hook not in _resolution_hooks:
            HOST.on_resolution(hook.step, hook.kind, hook.function)
            _resolution_hooks.add(hook)


def require_ran(args: Any, field: Field) -> None:
    """HostMismatch unless what runs while SGLang resolves its arguments has set `field` on them.

    A hook on a method that a version never calls is in place, and does nothing.
    """
    if field.get(args, None) is None:
        raise HostMismatch(
            "sglang_speed: SGLang has resolved its arguments without this package, so nothing was checked: start the "
            "server by SGLang's own launcher or Engine, with sglang_speed among its plugins"
        )


def require_host(owner: str) -> None:
    """Raise HostMismatch unless the version is right, and all hooks of `owner` and of every other are in place."""
    check_version()
    if owner not in _installed:
        raise HostMismatch(
            f"sglang_speed: its changes to SGLang for {owner} were not installed; look for the first error in the log "
            "above, and whether SGLANG_PLUGINS or SGLANG_PLATFORM leaves out sglang_speed"
        )
    require_in_place(chain(*_installed.values()))


def num_installed() -> int:
    """Hooks that are installed in this process, of all owners."""
    return sum(map(len, _installed.values())) + len(_resolution_hooks)


def require_in_place(hooks: Iterable[Hook]) -> None:
    hooks, held = tuple(hooks), _held_by_modules()
    missing = [hook.target for hook in hooks if not _is_in_place(hook, held)]
    if missing:
        raise HostMismatch(
            f"sglang_speed: {len(missing)} of its {len(hooks)} changes to SGLang are not in place: "
            f"{', '.join(missing)}; look for the first error in the log above"
        )


def _is_in_place(hook: Hook, held: set[int]) -> bool:
    """Whether calling the target runs the hook, under every name that a module has for the target.

    held: see `_held_by_modules`. A module that imported the target before it was changed still calls it as it was.
    """
    outer, *inner = _unwrapped(_plain(pkgutil.resolve_name(hook.target)))
    runs = any(_holds(function, hook.function) for function in (outer, *inner))
    return runs and not _is_replaced(hook) and held.isdisjoint(map(id, inner))


def _is_replaced(hook: Hook) -> bool:
    """Whether another plugin replaced the target after we did: the last replacement is the one that runs."""
    replacements = [function for kind, function, _ in HookRegistry._hooks[hook.target] if kind is HookType.REPLACE]
    return hook.kind is HookType.REPLACE and replacements[-1:] != [hook.function]


def _unwrapped(function: Any) -> Iterator[Any]:
    """A function and all that it wraps, outermost first."""
    while function is not None:
        yield function
        function = getattr(function, "__wrapped__", None)


def _holds(function: Any, hook_function: Any) -> bool:
    cells = getattr(function, "__closure__", None) or ()
    return function is hook_function or any(cell.cell_contents is hook_function for cell in cells)


def _held_by_modules() -> set[int]:
    """Identities of all that SGLang's modules have a name for."""
    modules = [module for name, module in list(sys.modules.items()) if name.startswith("sglang.")]
    return set(chain.from_iterable(map(id, list(vars(module).values())) for module in modules))


def _plain(target: Any) -> Any:
    """A class method as the function that it is."""
    return getattr(target, "__func__", target)
