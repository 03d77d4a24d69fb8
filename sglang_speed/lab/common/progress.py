"""Terminal output: a console wide enough for tables, and progress bars."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def wide_console(least_width: int) -> Console:
    """A console on stdout, at least this wide if it is no terminal, so that tables in logs are not cut."""
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, least_width)
    return console


def progress_bars(console: Console, *more: ProgressColumn) -> Progress:
    """Bars with description, count and time. more: further columns."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, *more, console=console)


def show_steps(console: Console, what: str, steps: Iterator[int], total: int) -> None:
    """Run the steps under a bar. steps: yields how many are done."""
    with progress_bars(console, TimeRemainingColumn()) as progress:
        task = progress.add_task(what, total=total)
        for done in steps:
            progress.update(task, completed=done)


def print_written(console: Console, paths: Iterable[Path | None]) -> None:
    """Print the paths of written files; None is skipped."""
    written = [str(path) for path in paths if path is not None]
    if written:
        console.print(f"written: {', '.join(written)}", soft_wrap=True)


def silence_libraries() -> None:
    """Disable progress bars and warnings of transformers in this process; errors stay."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
