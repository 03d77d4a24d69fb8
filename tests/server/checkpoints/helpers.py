"""What the tests of checkpoints share: edits of JSON files, and processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

NUM_LAYERS = 4
ROOT = Path(__file__).parents[3]
LLAMA_3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 512,
}


def edit_json(path: Path, **changes: Any) -> None:
    """Set keys of a JSON file; None removes a key."""
    value = json.loads(path.read_text(encoding="utf-8")) | changes
    kept = {key: entry for key, entry in value.items() if entry is not None}
    path.write_text(json.dumps(kept), encoding="utf-8")


def config_of(directory: Path) -> dict[str, Any]:
    """config.json of a checkpoint."""
    config: dict[str, Any] = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return config


def names_in(directory: Path) -> set[str]:
    """What lies in a directory."""
    return {path.name for path in directory.iterdir()}


def start_python(code: str, *args: str | Path, **env: str) -> subprocess.Popen[str]:
    """Start a Python process that has this repository on its path and nothing of it imported."""
    command = [sys.executable, "-c", code, *map(str, args)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, **env}, stdout=pipe, stderr=pipe, text=True)


def run_python(code: str, *args: str | Path, **env: str) -> str:
    """stdout of a process that must succeed."""
    process = start_python(code, *args, **env)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def kill_when(process: subprocess.Popen[str], said: str) -> None:
    """Kill a process, without a chance to clean up, once it prints the line `said`."""
    assert process.stdout is not None
    assert process.stderr is not None
    line = process.stdout.readline().strip()
    if line != said:
        process.kill()
        pytest.fail(f"the process printed {line!r}, then {process.stderr.read()}")
    process.send_signal(signal.SIGKILL)
    process.communicate()
