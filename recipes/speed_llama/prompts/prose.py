"""Installed prose: CPython's help topics and docstrings, and descriptions of our dependencies.

CPython's text depends on the Python version, the descriptions, a small part, on the versions of the packages in
DESCRIBED, some of which may be missing.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from pydoc_data.topics import topics
from sysconfig import get_path

from recipes.speed_llama.prompts.draw import Draw

MODULES = (
    *("argparse", "ast", "bisect", "calendar", "collections/__init__", "contextlib", "csv", "dataclasses", "datetime"),
    *("decimal", "difflib", "email/message", "enum", "fractions", "functools", "heapq", "http/client", "inspect"),
    *("ipaddress", "json/__init__", "logging/__init__", "os", "pathlib", "pickle", "queue", "random", "re/__init__"),
    *("sched", "selectors", "shelve", "shutil", "socket", "statistics", "string", "subprocess", "tarfile"),
    *("tempfile", "textwrap", "threading", "timeit", "tokenize", "turtle", "typing", "unittest/case", "urllib/parse"),
    *("urllib/request", "uuid", "warnings", "weakref", "zipfile"),
)
DESCRIBED = ("transformers", "torch", "numpy", "rich", "typer")
MIN_CHARS, MAX_CHARS = 110, 900


@cache
def paragraphs() -> tuple[str, ...]:
    """All distinct usable paragraphs: mostly words, whole sentences, 110 to 900 characters."""
    texts = [*(topics[name] for name in sorted(topics)), *_docstrings(), *_descriptions()]
    found = (_clean(block) for text in texts for block in re.split(r"\n\s*\n", text))
    return tuple(dict.fromkeys(block for block in found if _readable(block)))


def prose(draw: Draw, num_chars: int) -> list[str]:
    """Successive paragraphs of about `num_chars`, at least one."""
    source = paragraphs()
    start = draw.num(0, len(source) - 1)
    chosen: list[str] = []
    while not chosen or sum(map(len, chosen)) + 200 < num_chars:
        chosen.append(source[(start + len(chosen)) % len(source)])
    return chosen


def _docstrings() -> Iterator[str]:
    """Of modules, classes and functions, read from source, since imported ones may be patched."""
    library = Path(get_path("stdlib"))
    for name in MODULES:
        for node in ast.walk(ast.parse((library / f"{name}.py").read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                yield ast.get_docstring(node) or ""


def _descriptions() -> Iterator[str]:
    for package in DESCRIBED:
        try:
            yield str(metadata(package).json.get("description", ""))
        except PackageNotFoundError:
            continue


def _clean(block: str) -> str:
    return re.sub(r"\s+", " ", block.replace("*", "").replace("``", "`")).strip()


def _readable(block: str) -> bool:
    letters = sum(char.isalpha() or char == " " for char in block)
    usual = MIN_CHARS <= len(block) <= MAX_CHARS and letters > 0.88 * len(block)
    return usual and block[0].isupper() and block[-1] in ".:" and not re.search(r"https?:|<|\|", block)
