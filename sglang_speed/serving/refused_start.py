"""A start that this package refuses ends with one message and exit status 1.

SGLang alone prints a traceback of forty lines, and where a scheduler process fails it kills its own process, which a
shell reports as 137, like a machine out of memory.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sglang_speed.errors import ConfigError, HostMismatch

logger = logging.getLogger(__name__)

LAUNCHERS = ("launch_server.py", "sglang")
"""Programs that start a server; in a program of the user's own a traceback says which line asked for it."""
REFUSED = os.EX_CONFIG
"""Exit status of a scheduler process that refuses to serve."""


def say_refusals_in_one_line() -> None:
    """Print our own errors without a traceback where they end one of SGLang's launchers."""
    if Path(sys.argv[0]).name not in LAUNCHERS or sys.excepthook is not sys.__excepthook__:
        return

    def hook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if isinstance(error, ConfigError | HostMismatch):
            print(f"\n{error}", file=sys.stderr)
        else:
            sys.__excepthook__(kind, error, trace)

    sys.excepthook = hook


def exit_where_refused(
    original: Callable[..., None], scheduler: Any, server_args: Any, *args: Any, **kwargs: Any
) -> None:
    """Hook around Scheduler.__init__: a scheduler process that must not serve says why, and exits with REFUSED."""
    try:
        original(scheduler, server_args, *args, **kwargs)
    except (ConfigError, HostMismatch) as error:
        # the controller of data-parallel ranks waits for all of them, and only SGLang's own signal ends it
        if multiprocessing.parent_process() is None or server_args.dp_size > 1:
            raise
        logger.critical(str(error))
        raise SystemExit(REFUSED) from error


def end_where_refused(original: Callable[..., Any], pipe_readers: Any, processes: Sequence[Any]) -> Any:
    """Hook around _wait_for_scheduler_ready: ConfigError where a scheduler process refused to serve."""
    try:
        return original(pipe_readers, processes)
    except RuntimeError as error:
        if any(process.exitcode == REFUSED for process in processes):
            raise ConfigError(
                "sglang_speed: the server does not start, for the reason that its scheduler process gave above"
            ) from error
        raise
