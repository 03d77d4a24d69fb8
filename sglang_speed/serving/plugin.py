"""The entry point of SGLang's general plugins: install every declared change, or none.

Where SGLang is not the one that was tested, or one of the changes does not fit it, other models start untouched, with
a warning, and a SPEED checkpoint is refused as soon as its configuration is read. The changes that the CPU platform
needs are part of that platform: without them nothing is served on it.
"""

from __future__ import annotations

import logging

from sglang_speed.errors import HostMismatch

logger = logging.getLogger(__name__)


def register() -> None:
    """Called by SGLang in the HTTP server, the engine and every scheduler process."""
    from sglang_speed.models.hf_config import refuse
    from sglang_speed.models.hf_config import register as register_configuration
    from sglang_speed.serving.refused_start import say_refusals_in_one_line

    say_refusals_in_one_line()
    try:
        _install_all()
    except Exception as error:  # whatever is wrong, no SPEED model is served, and every other one is
        reason = str(error) if isinstance(error, HostMismatch) else f"sglang_speed cannot be installed: {error!r}"
        logger.warning(f"{reason}. Other models are served as if sglang-speed were not there; SPEED models are refused")
        refuse(reason)
        return
    register_configuration()


def _install_all() -> None:
    from sglang_speed import features
    from sglang_speed.guard.hooks import HOOKS as GUARD_HOOKS
    from sglang_speed.host.check import install, install_resolution_hooks
    from sglang_speed.serving.fields import FIELDS
    from sglang_speed.serving.hooks import HOOKS, RESOLUTION_HOOKS
    from sglang_speed.serving.settings import Settings

    _install_platform()
    for field in FIELDS:
        field.check()
    owners = {"serving": HOOKS, "features": features.HOOKS}
    if Settings.from_environment().has_guard:
        owners["guard"] = GUARD_HOOKS
    install(owners)
    install_resolution_hooks(RESOLUTION_HOOKS + features.RESOLUTION_HOOKS)


def _install_platform() -> None:
    """SGLang swallows the exceptions of plugins; SystemExit is none of those it catches."""
    from sglang.srt.platforms import current_platform

    from sglang_speed.host.check import install, install_resolution_hooks
    from sglang_speed.platforms.cpu import CpuPlatform
    from sglang_speed.platforms.cpu.hooks import HOOKS, RESOLUTION_HOOKS

    if not isinstance(current_platform, CpuPlatform):
        return
    try:
        install({"platform": HOOKS})
        install_resolution_hooks(RESOLUTION_HOOKS)
    except HostMismatch as error:
        message = f"sglang_speed: its CPU platform does not fit this SGLang: {error}"
        logger.critical(message)
        raise SystemExit(message) from error
