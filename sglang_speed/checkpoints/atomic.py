"""Directories and files that appear whole or not at all.

Owns the temporary sibling of what is under construction, the modes of its files, and what is said where nothing can be
written. Knows nothing of what is put into it.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sglang_speed.errors import ConfigError

_CANNOT_WRITE = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EEXIST,
    errno.EINVAL,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}


def require_free(destination: Path) -> None:
    """ConfigError unless `destination` is absent or an empty directory."""
    with writing_to(destination):
        if destination.is_dir() and not any(destination.iterdir()):
            return
        if destination.exists() or destination.is_symlink():
            raise ConfigError(f"{destination} exists and is not empty: choose another destination or remove it first")


def absolute(path: Path) -> Path:
    """Absolute path with links resolved; ConfigError if it cannot exist."""
    try:
        return path.resolve()
    except RuntimeError as error:  # of pathlib before Python 3.13, where links lead in a circle
        raise ConfigError(f"{path} cannot be written ({error}): choose another place") from error


def require_writable(destination: Path) -> None:
    """ConfigError unless `new_directory(destination)` can write there; call it before long work."""
    with writing_to(destination):
        partial = _make_partial(destination)
        partial.rmdir()


@contextmanager
def new_directory(destination: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `destination`, synced to disk and renamed to it at the end.

    Whatever happens inside, `destination` is either untouched or complete. A killed process leaves only the
    sibling, which starts with `partial_prefix(destination)`. Raises ConfigError if `destination` was filled meanwhile.
    """
    partial = _make_partial(destination)
    try:
        yield partial
        apply_umask(partial)
        _sync_tree(partial)
        _rename_to(partial, destination)
        _sync(destination.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a sibling to write, which takes the place of `path` at the end; until then `path` stays what it was."""
    half_written = path.with_name(f".{path.name}.new")
    half_written.unlink(missing_ok=True)
    half_written.touch()
    mode = half_written.stat().st_mode
    try:
        yield half_written
        half_written.chmod(mode)
        half_written.replace(path)
    finally:
        half_written.unlink(missing_ok=True)


def apply_umask(directory: Path) -> None:
    """Give the files in a directory that was made here the mode of new files.

    safetensors' `save_file` writes mode 0600, whatever the umask. A file with another name elsewhere is the user's own,
    hard-linked here, and keeps its mode.
    """
    mode = directory.stat().st_mode & 0o666
    for path in directory.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.stat().st_nlink == 1:
            path.chmod(mode)


def partial_prefix(destination: Path) -> str:
    """How the names of unfinished siblings of `destination` start."""
    return f".{destination.name}.partial-"


def remove_leftovers(destination: Path) -> None:
    """Remove unfinished siblings of `destination`. The caller must hold the lock under which they are made."""
    for leftover in destination.parent.glob(f"{partial_prefix(destination)}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def discard(directory: Path) -> None:
    """Remove a finished directory; it disappears in one step, so that nobody sees half of it."""
    dying = directory.parent / f"{partial_prefix(directory)}{secrets.token_hex(4)}"
    directory.rename(dying)
    shutil.rmtree(dying)


@contextmanager
def writing_to(path: Path, fix: str = "choose a place with room and with permission to write") -> Iterator[None]:
    """Turn "no space", "no permission", "no such place" and the like into a ConfigError with `path` and the fix."""
    from safetensors import SafetensorError

    try:
        yield
    except OSError as error:
        if error.errno not in _CANNOT_WRITE:
            raise
        where = "" if str(error.filename) in ("None", str(path)) else f": {error.filename}"
        raise ConfigError(f"{path} cannot be written ({error.strerror}{where}): {fix}") from error
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        if found is None or int(found[1]) not in _CANNOT_WRITE:
            raise
        raise ConfigError(f"{path} cannot be written ({os.strerror(int(found[1]))}): {fix}") from error


def _make_partial(destination: Path) -> Path:
    partial = destination.parent / f"{partial_prefix(destination)}{os.getpid()}-{secrets.token_hex(4)}"
    # not tempfile.mkdtemp: its mode 0700 would stay with the finished directory
    partial.mkdir(parents=True)
    return partial


def _rename_to(partial: Path, destination: Path) -> None:
    try:
        os.replace(partial, destination)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise ConfigError(
                f"{destination} was filled by another process meanwhile: choose another destination or remove it first"
            ) from error
        raise


def _sync_tree(directory: Path) -> None:
    for root, _, names in os.walk(directory):
        for name in names:
            path = Path(root, name)
            if not path.is_symlink():
                _sync(path)
        _sync(Path(root))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def build_lock(directory: Path) -> Iterator[None]:
    """One builder at a time; the others wait here and then find the work done."""
    from filelock import FileLock, Timeout  # SGLang's transformers have it

    directory.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(directory.parent / f"{directory.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"sglang-speed: another process is building {directory}, waiting for it", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
