"""A part of a document that a script writes from committed results, between two marks."""

from __future__ import annotations

from pathlib import Path

import typer

END = "<!-- end of figures -->"


def write_figures(document: Path, results: str, figures: str, *, check: bool) -> None:
    """Replace what stands behind the mark that names `results`; with `check`, exit 1 where that would change it."""
    begin = f"<!-- figures of {results} -->"
    before = document.read_text(encoding="utf-8")
    head, rest = before.split(begin)
    after = f"{head}{begin}\n{figures}{END}{rest.split(END, 1)[1]}"
    if after == before:
        return
    if check:
        print(f"{document} does not say what {results} says")
        raise typer.Exit(1)
    document.write_text(after, encoding="utf-8")
