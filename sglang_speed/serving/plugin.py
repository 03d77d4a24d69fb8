"""The entry point of SGLang's general plugins: install every declared change, or stop the process.

SGLang swallows the exceptions of plugins. SystemExit is none of those it catches, so a host that does not
look as expected never gets as far as serving.
"""

from __future__ import annotations

import logging

from sglang_speed.errors import HostMismatch

logger = logging.getLogger(__name__)


def register() -> None:
    """Called by SGLang in the HTTP server, the engine and every scheduler process."""
    try:
        _install()
    except (HostMismatch, ImportError, AttributeError) as error:
        message = str(error) if isinstance(error, HostMismatch) else f"sglang_speed cannot be installed: {error!r}"
        logger.critical(message)
        raise SystemExit(message) from error


def _install() -> None:
    from sglang_speed.serving.host import check_target, check_version

    check_version()
    from sglang.srt.models.registry import ModelRegistry
    from sglang.srt.plugins.hook_registry import HookRegistry

    from sglang_speed.reference.configuration import register as register_configuration
    from sglang_speed.serving.hooks import declared_hooks

    for hook in declared_hooks():
        check_target(hook)
        HookRegistry.register(hook.target, hook.function, hook.kind)
    register_configuration()
    ModelRegistry.register("sglang_speed.models", strict=True)
