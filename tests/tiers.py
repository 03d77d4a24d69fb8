"""What a test starts decides its tier: nothing (unit), SGLang in this process (inprocess), or servers (server).

Read from its fixtures and from what its modules import, so that no test is marked by hand.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
STARTS_SERVERS = ("tests.servers", "tests.kills", "tests.storm", "subprocess")
SERVER_FIXTURES = {"shared_server", "asker", "reference"}
LONG = ("tests/training", "tests/checkpoints", "tests/reference", "tests/recipes")
"""Folders of unit tests that train, build or convert models: minutes, so not for a quick look."""


def tier_of(path: Path, fixtures: set[str]) -> str:
    files = [path, *conftests_of(path)]
    of_tests = {name for each in files for name in imports_of(each, "tests")}
    if SERVER_FIXTURES & fixtures or any(name.startswith(STARTS_SERVERS) for name in of_tests):
        return "server"
    names = {name for each in files for name in imports_of(each, "")}
    return "inprocess" if any(name.partition(".")[0] == "sglang" for name in names) else "unit"


def conftests_of(path: Path) -> list[Path]:
    """Those of the folders between `tests` and a test; that of `tests` itself starts only what a fixture asks for."""
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
