"""The versions of SGLang that are supported. Imports no SGLang."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version

from sglang_speed import SUPPORTED_SGLANG
from sglang_speed.errors import HostMismatch

OLDEST, NEWEST = SUPPORTED_SGLANG


@cache
def installed_version() -> str:
    return version("sglang")


def check_version() -> str:
    """The installed version; HostMismatch unless it is supported."""
    found = installed_version()
    if found not in SUPPORTED_SGLANG:
        raise HostMismatch(
            f"sglang_speed changes parts of SGLang and is tested with {' and '.join(SUPPORTED_SGLANG)}, and {found} is "
            f"installed: install sglang=={NEWEST} to serve SPEED models"
        )
    return found
