"""The house: imports point one way, and each folder says what it owns."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "sglang_speed"

FLOORS = (
    ("errors",),
    ("policy_config",),
    ("config",),
    ("quantization",),
    ("method", "host"),
    ("policies",),
    ("kv_pool",),
    ("served",),
    ("attention",),
    ("models",),
    ("reference", "platforms"),
    ("checkpoints",),
    ("features",),
    ("guard",),
    ("serving",),
    ("lab",),
)
"""From the ground up: a room imports from the floors below its own, and from itself."""
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> Iterator[str]:
    """Rooms of this package that a file imports from, inside of functions too, types aside."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and id(node) not in for_types:
            parts = node.module.split(".")
            if parts[0] == "sglang_speed":
                yield from parts[1:2] or [alias.name for alias in node.names if alias.name in FLOOR_OF]


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path: Path) -> None:
    room = room_of(path)
    wrong = {other for other in imported_rooms(path) if other != room and FLOOR_OF[other] >= FLOOR_OF[room]}
    assert not wrong, f"{path.relative_to(ROOT)} imports from {sorted(wrong)}, which are not below {room}"


@pytest.mark.parametrize("folder", sorted(path.parent for path in PACKAGE.rglob("__init__.py")), ids=str)
def test_a_folder_says_what_it_owns(folder: Path) -> None:
    docstring = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
    assert len(docstring or "") > 40, f"{folder.relative_to(ROOT)}/__init__.py has no docstring to speak of"
