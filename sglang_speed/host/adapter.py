"""The adapter for the installed SGLang; importing it raises HostMismatch where that is not a supported one."""

from __future__ import annotations

from importlib import import_module

from sglang_speed.host.base import Host
from sglang_speed.host.versions import check_version

_VERSION = check_version()
_MODULE = import_module(f"sglang_speed.host.v{_VERSION.replace('.', '_')}")

HOST: Host = getattr(_MODULE, f"Host{_VERSION.replace('.', '')}")()
