"""The entry point of SGLang's general plugins: install every declared change, or stop the process.

SGLang swallows the exceptions of plugins. SystemExit is none of those it catches, so a host that does not
look as expected never gets as far as serving.
"""

from __future__ import annotations

import logging
import os
import sys

from sglang_speed.errors import HostMismatch

logger = logging.getLogger(__name__)

MODELS_PACKAGE = "sglang_speed.models"
EXTERNAL_MODELS_VARIABLE = "SGLANG_EXTERNAL_MODEL_PACKAGE"


def register() -> None:
    """Called by SGLang in the HTTP server, the engine and every scheduler process."""
    try:
        _install()
    except Exception as error:  # to stop, not to go on
        message = str(error) if isinstance(error, HostMismatch) else f"sglang_speed cannot be installed: {error!r}"
        logger.critical(message)
        raise SystemExit(message) from error


def _install() -> None:
    from sglang_speed.serving.host import check_target, check_version

    check_version()
    from sglang.srt.plugins.hook_registry import HookRegistry

    from sglang_speed.reference.configuration import register as register_configuration
    from sglang_speed.serving.hooks import declared_hooks

    for hook in declared_hooks():
        check_target(hook)
        HookRegistry.register(hook.target, hook.function, hook.kind)
    register_configuration()
    _register_models()


def _register_models() -> None:
    """Let SGLang's model registry find ours.

    The registry imports every model file, seconds that only scheduler processes need; the variable makes it read
    our package when it is imported. Where that has happened, or the user has a package there, we add ours at once.
    """
    is_imported = "sglang.srt.models.registry" in sys.modules
    if not is_imported and os.environ.get(EXTERNAL_MODELS_VARIABLE, "") in ("", MODELS_PACKAGE):
        os.environ[EXTERNAL_MODELS_VARIABLE] = MODELS_PACKAGE
        return
    from sglang.srt.models.registry import ModelRegistry

    ModelRegistry.register(MODELS_PACKAGE, overwrite=True, strict=True)
