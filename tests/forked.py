"""Python commands whose imports are done: processes that are forked from one that has imported SGLang.

A server then starts in seconds instead of a minute, nearly all of which its three processes take to import the same
modules on two slow cores. SGLang's own processes are forked too, so they inherit what the main process holds. Tests of
imports, plugins, versions, ranks or `atexit` need new interpreters.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from sglang.srt.platforms import current_platform  # noqa: F401  sets what OpenMP and SGLang read while imported

IMPORTED = "tests.imported"
_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload([IMPORTED])


@dataclass(frozen=True)
class Forked:
    """A process as `subprocess.Popen` shows it, the leader of a process group of its own."""

    process: ForkServerProcess

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        self.process.join(timeout)
        if self.process.is_alive():
            raise subprocess.TimeoutExpired(self.process.name, timeout or 0.0)
        return self.process.exitcode


def run(*command: str | Path, timeout: float = 600, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python COMMAND` to its end. environment: added to this process's.

    Raises TimeoutExpired, and kills the process.
    """
    words = [str(word) for word in command]
    with tempfile.TemporaryDirectory() as directory:
        printed = [Path(directory, name) for name in ("stdout", "stderr")]
        process = start(words, printed[0], environment, printed[1])
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        assert code is not None
        return subprocess.CompletedProcess(words, code, *(path.read_text(encoding="utf-8") for path in printed))


def start(command: Sequence[str], output: Path, environment: Mapping[str, str], errors: Path | None = None) -> Forked:
    """Start `python COMMAND`, e.g. `-m sglang.launch_server --model-path ...` or a script with its arguments.

    output: file of what it prints; errors: of what it prints to stderr, if it is another. environment: added to this
    process's.
    """
    files = [str(output), str(errors or output)]
    for name in files:
        Path(name).write_bytes(b"")
    process = _FORKING.Process(target=_run, args=(list(command), files, {**os.environ, **environment}))
    process.start()
    forked = Forked(process)
    while process.is_alive() and os.getpgid(forked.pid) != forked.pid:
        time.sleep(0.01)  # until its group can be killed
    return forked


def _run(command: list[str], files: Sequence[str], environment: Mapping[str, str]) -> None:
    os.setsid()
    for number, name in enumerate((os.devnull, *files)):
        opened = os.open(name, os.O_RDWR | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    # SGLang asks for `spawn`, whose processes would import everything again
    multiprocessing.set_start_method("fork", force=True)
    multiprocessing.set_start_method = lambda *_, **__: None  # type: ignore[assignment]
    try:
        importlib.import_module(IMPORTED)  # the fork server is silent where it cannot
        if command[0] == "-m":
            sys.argv = command[1:]
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = list(command)
            runpy.run_path(command[0], run_name="__main__")
    except Exception:
        sys.excepthook(*sys.exc_info())  # as an interpreter ends, not as a process of multiprocessing
        sys.exit(1)
