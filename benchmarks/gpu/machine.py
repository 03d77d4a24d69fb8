"""Where and with what a GPU figure was measured; works without a git repository and without network."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("sglang", "sglang-kernel", "sglang-speed", "flashinfer-python", "torch", "triton", "transformers")
ROOT = Path(__file__).resolve().parents[2]
GPU_FIELDS = "name,driver_version,memory.total,clocks.max.sm,clocks.max.memory,power.limit"


def provenance(commit: str | None) -> dict[str, Any]:
    """commit: what the checkout is, where it travelled without its history."""
    return {
        "commit": commit or _first_line("git", "-C", str(ROOT), "rev-parse", "HEAD") or "unknown",
        "machine": {
            "gpu": _first_line("nvidia-smi", f"--query-gpu={GPU_FIELDS}", "--format=csv,noheader"),
            "nvcc": _last_line("nvcc", "--version"),
            "kernel": platform.release(),
        },
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _first_line(*command: str) -> str | None:
    return next(iter(_lines(*command)), None)


def _last_line(*command: str) -> str | None:
    return next(iter(_lines(*command)[::-1]), None)


def _lines(*command: str) -> list[str]:
    """Nothing where the program is missing or fails: a laptop has no nvidia-smi."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return []
