"""A test's folder says what the test starts, and so its markers. A file in a wrong folder is an error at collection.

What a file starts is read from what it and the conftests of its folders import.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
MARKERS = {
    "unit": ("unit",),
    "inprocess": ("inprocess",),
    "server": ("server",),
    "gpu": ("inprocess", "gpu"),
}
"""By folder. unit starts nothing, inprocess runs SGLang in the test's own process, server starts servers or other
processes, gpu runs SGLang in the test's own process on a GPU."""
MAY_START = {"unit": ("unit",), "inprocess": ("inprocess",), "gpu": ("unit", "inprocess"), "server": tuple(MARKERS)}
"""A test in inprocess that starts nothing is in a wrong folder too: `make quick` would miss it."""
STARTS_PROCESSES = ("tests.server.", "subprocess")
"""How the names of modules begin that do."""
LONG = ("training", "checkpoints", "reference", "recipes")
"""Subjects whose tests train, build or convert models: minutes, so not for a quick look."""


def markers_of(path: Path) -> tuple[str, ...]:
    """Markers of a test file that lies in the right folder."""
    folder, subject, *_ = path.relative_to(ROOT / "tests").parts
    return (*MARKERS[folder], "long") if subject in LONG else MARKERS[folder]


def misplacement(path: Path) -> str | None:
    """Why a test file lies in a wrong folder, and in which it belongs; None where it is in the right one."""
    folder, *rest = path.relative_to(ROOT / "tests").parts
    starts, why = what_starts(path)
    if starts in MAY_START.get(folder, ()):
        return None
    subject = rest if folder in MARKERS else [folder, *rest]
    right = "/".join(["tests", starts, *subject])
    return f"{path.relative_to(ROOT)} is in a wrong folder: {why}, so it belongs at {right} (tests/README.md)"


def what_starts(path: Path) -> tuple[str, str]:
    """The folder whose tests start what this one starts, and how one can tell."""
    files = [path, *conftests_of(path)]
    of_tests = sorted({name for each in files for name in imports_of(each, "tests")})
    if processes := [name for name in of_tests if name.startswith(STARTS_PROCESSES)]:
        return "server", f"it starts processes (its imports lead to {processes[0]})"
    names = {name for each in files for name in imports_of(each, "")}
    if any(name.partition(".")[0] == "sglang" for name in names):
        return "inprocess", "its imports lead to sglang"
    return "unit", "it starts nothing"


def conftests_of(path: Path) -> list[Path]:
    """Those of the folders between `tests` and a test; that of `tests` itself starts nothing."""
    folders = [folder for folder in path.parents if folder.is_relative_to(ROOT / "tests") and folder != ROOT / "tests"]
    return [folder / "conftest.py" for folder in folders if (folder / "conftest.py").is_file()]


@cache
def imports_of(path: Path, within: str) -> frozenset[str]:
    """Modules that a file imports, and what files of this repository, below `within`, import for it."""
    return frozenset(_walk(path, within, set()))


def _walk(path: Path, within: str, seen: set[Path]) -> set[str]:
    seen.add(path)
    found: set[str] = set()
    for name in _names(path):
        found.add(name)
        other = ROOT / Path(*name.split("."))
        for file in (other.with_suffix(".py"), other / "__init__.py"):
            if name.startswith(within) and file.is_file() and file not in seen:
                found |= _walk(file, within, seen)
    return found


@cache
def _names(path: Path) -> tuple[str, ...]:
    """Modules named at the top of a file; what is imported inside of functions costs nothing until it runs."""
    names = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return tuple(names)
