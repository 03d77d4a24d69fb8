"""The package's extras: what commands need beyond serving."""

from __future__ import annotations

from importlib.util import find_spec

from sglang_speed.errors import ConfigError


def require_extra(extra: str, *modules: str) -> None:
    """ConfigError where a module of one of the package's extras is missing."""
    for name in modules:
        if find_spec(name) is None:
            raise ConfigError(f"{name} is not installed: `pip install sglang-speed[{extra}]`")
