"""Unpack a bundle on an offline GPU machine and write its environment.

python3 benchmarks/gpu/install.py BUNDLE SITE    # then: . SITE/env.sh

Uses the standard library and the bundle only. This package is not copied: its checkout is put on the path, beside a
`dist-info` with the entry points by which SGLang finds the plugin.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOUNDFILE_STUB = '"""Stub: SGLang imports soundfile for audio endpoints, which are not used here."""\n'
# library headers that FlashInfer includes; they may be missing in the toolkit but are in the Python packages
HEADERS = ("cublas", "curand", "cusparse", "cusolver", "nvrtc")


def install(bundle: Path, site: Path) -> None:
    """Unpack everything to `site`, checked against the bundle's manifest."""
    site.mkdir(parents=True, exist_ok=True)
    lines = (bundle / "MANIFEST").read_text(encoding="utf-8").splitlines()
    with ProcessPoolExecutor() as pool:
        list(pool.map(partial(unpack, bundle, site), *zip(*(line.split() for line in lines), strict=True)))
    if importlib.util.find_spec("soundfile") is None:
        (site / "soundfile.py").write_text(SOUNDFILE_STUB, encoding="utf-8")
    announce_plugin(site)
    write_environment(site)


def unpack(bundle: Path, site: Path, checksum: str, name: str) -> None:
    path = bundle / name
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    assert found == checksum, f"{path} is damaged: {found} instead of {checksum}"
    with tarfile.open(path, "r:xz") as archive:
        archive.extractall(site, filter="data")


def announce_plugin(site: Path) -> None:
    """Write the metadata of an editable install of this checkout."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    name = project["name"].replace("-", "_")
    version = package_version()
    directory = site / f"{name}-{version}.dist-info"
    directory.mkdir(exist_ok=True)
    metadata = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {version}\n"
    (directory / "METADATA").write_text(metadata, encoding="utf-8")
    groups = [
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in points.items())
        for group, points in project["entry-points"].items()
    ]
    (directory / "entry_points.txt").write_text("\n".join(groups), encoding="utf-8")


def package_version() -> str:
    """Read, not imported: the package is not on the path yet."""
    text = (ROOT / "sglang_speed" / "__init__.py").read_text(encoding="utf-8")
    (found,) = re.findall(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    return str(found)


def write_environment(site: Path) -> None:
    variables = {
        **toolkit_variables(site),
        "PYTHONPATH": f"{site}:{ROOT}${{PYTHONPATH:+:$PYTHONPATH}}",
        "FLASHINFER_WORKSPACE_BASE": f"{site}/jit",  # FlashInfer's compiled kernels
        "TVM_FFI_CACHE_DIR": f"{site}/jit/tvm-ffi",  # SGLang's
        "TRITON_CACHE_DIR": f"{site}/jit/triton",
        "TORCHINDUCTOR_CACHE_DIR": f"{site}/jit/inductor",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "SGLANG_ENABLE_JIT_DEEPGEMM": "0",
    }
    exports = "".join(f'export {name}="{value}"\n' for name, value in variables.items())
    (site / "env.sh").write_text(f'{exports}export PATH="$CUDA_HOME/bin:$PATH"\n', encoding="utf-8")
    print(f"installed in {site}")


def toolkit_variables(directory: Path) -> dict[str, str]:
    """Environment variables with which nvcc compiles FlashInfer's kernels; `directory` gets links to missing files."""
    home = cuda_home()
    include, lib = directory / "cuda_extra" / "include", directory / "cuda_extra" / "lib"
    include.mkdir(parents=True, exist_ok=True)
    lib.mkdir(parents=True, exist_ok=True)
    for header in _packaged("include/*.h"):
        if header.name.startswith(HEADERS) and not (home / "include" / header.name).exists():
            _link(header, include / header.name)
    for name, found in (("libcuda.so", _driver_libraries(home)), ("libcudart.so", _runtime_libraries(home))):
        for path in found[:1]:
            _link(path, lib / name)
    return {
        "CUDA_HOME": str(home),
        "CPATH": _prepended("CPATH", include),
        "LIBRARY_PATH": _prepended("LIBRARY_PATH", lib),
        "FLASHINFER_CUDA_ARCH_LIST": "9.0a",
        "MAX_JOBS": os.environ.get("MAX_JOBS", str(len(os.sched_getaffinity(0)))),
    }


def cuda_home() -> Path:
    """CUDA_HOME, or the toolkit of nvcc on the path."""
    if "CUDA_HOME" in os.environ:
        return Path(os.environ["CUDA_HOME"]).resolve()
    command = ["nvcc", "--dryrun", "-x", "cu", "-E", "/dev/null"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stderr.splitlines()
    return next(Path(line.removeprefix("#$ TOP=")).resolve() for line in lines if line.startswith("#$ TOP="))


def _packaged(pattern: str) -> Iterator[Path]:
    """Files in NVIDIA's Python packages."""
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations or [] if spec else []:
        yield from Path(folder).rglob(pattern)


def _driver_libraries(home: Path) -> list[Path]:
    listed = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True).stdout.splitlines()
    found = [Path(line.split("=>")[1].strip()) for line in listed if "libcuda.so" in line]
    found += Path("/usr/local/nvidia").glob("lib*/libcuda.so*")
    return [*found, *home.glob("lib64/stubs/libcuda.so")]


def _runtime_libraries(home: Path) -> list[Path]:
    return [*home.glob("lib64/libcudart.so.1?"), *_packaged("libcudart.so.13")]


def _link(target: Path, link: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target)


def _prepended(variable: str, path: Path) -> str:
    return ":".join([str(path), *filter(None, [os.environ.get(variable)])])


if __name__ == "__main__":
    shutil.rmtree(sys.argv[2], ignore_errors=True)
    install(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
