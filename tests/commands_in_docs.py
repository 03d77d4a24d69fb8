"""The commands that README.md and docs/ tell users to type."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(r"(?:^ {4}.*\n|^\s*\n)+", re.MULTILINE)
_INLINE = re.compile(r"`([^`\n]+)`")
_ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")


def commands(program: str) -> list[tuple[str, str]]:
    """Each command of `program` as (page, command): continued lines are joined, other commands of a line left out."""
    found = {
        (str(page.relative_to(ROOT)), command)
        for page in PAGES
        for line in _lines(page)
        for command in _parts(line)
        if command.startswith(f"{program} ")
    }
    return sorted(found)


def arguments(program: str, command: str) -> list[str]:
    """What a shell would pass on; `...` stands for further arguments."""
    words = shlex.split(command.removeprefix(program), comments=True)
    return [word for word in words if word != "..."]


def _lines(page: Path) -> Iterator[str]:
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for block in _BLOCK.findall(text):
        yield from block.splitlines()
    for line in text.splitlines():
        if not line.startswith("    "):
            yield from _INLINE.findall(line)


def _parts(line: str) -> Iterator[str]:
    for part in re.split(r"&&|;|\|", line):
        words = part.split()
        while words and (_ASSIGNMENT.fullmatch(words[0]) or words[0] == "$"):
            del words[0]
        yield re.sub(r"\s+", " ", " ".join(words))
