"""docs/models.md from the table of architectures: `python -m tests.unit.models.table` writes its rows anew."""

from __future__ import annotations

from pathlib import Path

from sglang_speed.models.architectures import ARCHITECTURES, REFUSED, Architecture
from tests.catalogue import MODELS

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs/models.md"
ON_GPU = ("llama",)
"""Those that have run on a GPU (docs/gpu.md)."""


def rows() -> list[str]:
    """A line for each architecture, then one for each reason of a refusal."""
    refused: dict[str, list[str]] = {}
    for model_type, reason in REFUSED.items():
        refused.setdefault(reason, []).append(f"`{model_type}`")
    return [*map(_row, ARCHITECTURES.values()), *(f"| {', '.join(types)} | {why} |" for why, types in refused.items())]


def _row(row: Architecture) -> str:
    proven = " and ".join(["CPU"] * (row.model_type in MODELS) + ["H200"] * (row.model_type in ON_GPU))
    tools = "all" if row.is_like_llama else "all but `train`"
    return f"| `{row.model_type}` | `{row.name}` | {row.examples} | {proven} | {tools} | {row.note} |"


def write() -> None:
    """Put the rows below the head of their table."""
    lines: list[str] = []
    served, refused = rows()[: len(ARCHITECTURES)], rows()[len(ARCHITECTURES) :]
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("| `"):
            continue
        lines.append(line)
        if line.startswith("|---"):
            lines += refused if served[0] in lines else served
    PAGE.write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    write()
