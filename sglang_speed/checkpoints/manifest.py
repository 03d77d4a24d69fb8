"""The list of files that a finished directory has: written last, checked at every start.

Owns `speed_manifest.json`.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

MANIFEST_NAME = "speed_manifest.json"
# Files up to this size are hashed by the quick check (about 10 ms for a tokenizer); larger ones are weights, whose
# size alone tells a truncated file.
_QUICK_HASH_BYTES = 16 * 2**20


def file_sha256(path: Path) -> str:
    """sha256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(directory: Path) -> None:
    """Record size and sha256 of every file of `directory`."""
    files = {
        str(path.relative_to(directory)): {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
    (directory / MANIFEST_NAME).write_text(json.dumps({"files": files}, indent=2) + "\n", encoding="utf-8")


def find_damage(directory: Path, *, every_byte: bool = False) -> str | None:
    """What is wrong with a directory that was finished with `write_manifest`, or None.

    Compares all sizes and the hashes of small files; with `every_byte` the hashes of all files.
    """
    try:
        files = json.loads((directory / MANIFEST_NAME).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"{MANIFEST_NAME} is missing or broken"
    problems = (_damage(directory / name, entry, every_byte) for name, entry in files.items())
    return next((problem for problem in problems if problem), None)


def _damage(path: Path, entry: dict[str, Any], every_byte: bool) -> str | None:
    if not path.is_file():
        return f"{path.name} is missing"
    size = path.stat().st_size
    if size != entry["bytes"]:
        return f"{path.name} has {size} bytes instead of {entry['bytes']}"
    if (every_byte or size <= _QUICK_HASH_BYTES) and file_sha256(path) != entry["sha256"]:
        return f"{path.name} has other contents than when it was written"
    return None
