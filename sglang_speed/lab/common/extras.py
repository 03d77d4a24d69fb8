"""The package's extras: dependencies of commands beyond serving."""

from __future__ import annotations

from importlib.util import find_spec

from sglang_speed.errors import ConfigError


def require_extra(extra: str, *modules: str) -> None:
    """Raise ConfigError if a module of an extra is not installed."""
    for name in modules:
        if find_spec(name) is None:
            raise ConfigError(
                f"{name} is not installed: `pip install 'sglang-speed[{extra}]'`, or '.[{extra}]' in a clone"
            )
