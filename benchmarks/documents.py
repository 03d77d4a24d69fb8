"""Generated parts of documents, between two marks."""

from __future__ import annotations

from pathlib import Path

import typer

END = "<!-- end of figures -->"


def write_figures(document: Path, results: str, figures: str, *, check: bool) -> None:
    """Replace the text after the mark that names `results`; with `check`, exit 1 if that would change it."""
    begin = f"<!-- figures of {results} -->"
    before = document.read_text(encoding="utf-8")
    head, rest = before.split(begin)
    after = f"{head}{begin}\n{figures}{END}{rest.split(END, 1)[1]}"
    if after == before:
        return
    if check:
        print(f"{document} differs from {results}")
        raise typer.Exit(1)
    document.write_text(after, encoding="utf-8")
