"""Build the bundle that lets an offline GPU machine run SGLang: archives of wheels, compiled kernels, a manifest.

python benchmarks/gpu/bundle.py --cache ~/.cache/sglang-speed-gpu --out .gpu-bundle [--extra kernels.tar.xz]

Needs a package index, `pip` and binutils' `strip`; no GPU. `packages.py` says what goes in, `install.py` unpacks it.
"""

from __future__ import annotations

import fnmatch
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from packages import ARCHIVES, GLIBC_MINORS, NEVER_NEEDED, PYTHON_VERSION, Archive

MAX_BYTES = 56 * 2**20
"""Maximum size of the bundle."""
MIN_STRIPPED_BYTES = 100_000


def build(
    cache: Annotated[Path, typer.Option(help="Folder for downloaded wheels.")],
    out: Annotated[Path, typer.Option(help="Folder of the bundle; replaced.")],
    extra: Annotated[list[Path] | None, typer.Option(help="Further archives, e.g. of compile_kernels.py.")] = None,
) -> None:
    """Download missing wheels, pack them, and print the size of each archive."""
    cache.mkdir(parents=True, exist_ok=True)
    download(cache, [name for archive in ARCHIVES.values() for name in archive])
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    archives = [pack(cache, archive, out / f"{name}.tar.xz") for name, archive in ARCHIVES.items()]
    archives += [Path(shutil.copy(path, out)) for path in extra or []]
    (out / "MANIFEST").write_text("".join(f"{digest(path)}  {path.name}\n" for path in archives), encoding="utf-8")
    for path in archives:
        print(f"{path.stat().st_size / 2**20:7.2f} MiB  {path.name}")
    total = sum(path.stat().st_size for path in archives)
    print(f"{total / 2**20:7.2f} MiB  of {MAX_BYTES / 2**20:.0f}")
    if total > MAX_BYTES:
        raise typer.Exit(1)


def download(cache: Path, requirements: Sequence[str]) -> None:
    """Download missing wheels, for the target's Python and C library."""
    missing = [name for name in requirements if find_wheel(cache, name) is None]
    if not missing:
        return
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in GLIBC_MINORS]
    target = ["--python-version", PYTHON_VERSION, "--implementation", "cp", "--only-binary=:all:"]
    for platform in [*platforms, "manylinux2014_x86_64", "manylinux1_x86_64"]:
        target += ["--platform", platform]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", *target, "-d", str(cache), *missing]
    subprocess.run(command, check=True)


def find_wheel(cache: Path, requirement: str) -> Path | None:
    name, version = requirement.split("==")
    for wheel in cache.glob("*.whl"):
        found_name, found_version = wheel.name.split("-")[:2]
        if (_plain(found_name), found_version) == (_plain(name), version):
            return wheel
    return None


def pack(cache: Path, archive: Archive, path: Path) -> Path:
    """Pack the contents of several wheels reproducibly into one archive."""
    with tempfile.TemporaryDirectory() as directory:
        for requirement, left_behind in archive.items():
            wheel = find_wheel(cache, requirement)
            assert wheel is not None, f"{requirement} was downloaded but is not in {cache}"
            unpack_wheel(wheel, Path(directory), (*NEVER_NEEDED, *left_behind))
        with tarfile.open(path, "w:xz", preset=6) as tar:
            for member in sorted(Path(directory).iterdir()):
                tar.add(member, member.name, filter=_anonymous)
    return path


def unpack_wheel(wheel: Path, directory: Path, left_behind: Sequence[str]) -> None:
    """Extract the needed files and strip the wheel's own libraries; bundled libraries are already stripped."""
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            if member.is_dir() or any(fnmatch.fnmatch(member.filename, pattern) for pattern in left_behind):
                continue
            path = Path(archive.extract(member, directory))
            is_ours = ".so" in path.name and not path.parent.name.endswith(".libs")
            if is_ours and path.stat().st_size > MIN_STRIPPED_BYTES:
                subprocess.run(["strip", "--strip-unneeded", str(path)], check=True)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _plain(name: str) -> str:
    return name.lower().replace("-", "_").replace(".", "_")


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    typer.run(build)
