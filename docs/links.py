"""Hooks of mkdocs: what the pages link to outside of docs/, and the page of contributors.

A link to a file of the repository leads there where `repo_url` is set, and is plain text where it is not. One to a file
that is not there is a warning, which `mkdocs build --strict` makes an error.
"""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(((?:\.\./)+[^)\s]+)\)")
CONTRIBUTING = "contributing.md"

logger = logging.getLogger("mkdocs.hooks.links")


def on_files(files: Files, config: Any) -> Files:
    """CONTRIBUTING.md lies in the root, where people look for it; its links lead into docs/."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    inside = re.sub(r"\]\(docs/", "](", text)
    outside = re.sub(r"\]\((?![a-z]+:|#)(?=[^)]*\))([^)]+)\)", lambda m: _from_docs(m[1]), inside)
    files.append(File.generated(config, CONTRIBUTING, content=outside))
    return files


def _from_docs(target: str) -> str:
    is_page = (ROOT / "docs" / target.partition("#")[0]).is_file()
    return f"]({target})" if is_page else f"](../{target})"


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links out of docs/ are no pages of the site."""
    folder = posixpath.dirname(page.file.src_uri)

    def replaced(found: re.Match[str]) -> str:
        text, target = found[1], found[2]
        path, _, anchor = target.partition("#")
        place = posixpath.normpath(posixpath.join("docs", folder, path))
        if place.startswith("docs/"):
            return found[0]
        if not (ROOT / place).exists():
            logger.warning("%s links to %s, which is not in the repository", page.file.src_uri, target)
        if not config.repo_url:
            return text
        return f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{place}{'#' + anchor if anchor else ''})"

    return LINK.sub(replaced, markdown)
