"""docs/features.md from the features themselves: `python -m tests.inprocess.features.table` writes its table anew."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from sglang_speed import SUPPORTED_SGLANG
from sglang_speed.features import MODULES, Feature, Refusal

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs/features.md"
HEAD = ("| feature | flags | status | why / proof |", "|---|---|---|---|")


def rows() -> list[str]:
    """A line for each feature, in the order in which they are asked."""
    return [_row(module) for module in MODULES]


def _row(module: ModuleType) -> str:
    feature: Feature = module.FEATURE
    file = f"{module.__name__.replace('.', '/')}.py"
    flags = list(dict.fromkeys([*feature.served, *map(_named, feature.refusals)]))
    cells = [f"[{feature.name}](../{file})", _flags(flags), feature.status, "; ".join(_why(feature))]
    return f"| {' | '.join(cells)} |"


def _why(feature: Feature) -> list[str]:
    """What proves what is served, then what is refused, by reason."""
    links = ", ".join(f"[{Path(path).stem}](../{path})" for path in feature.proof)
    parts = [f"{_flags(feature.served)}: {links}"] if feature.served else []
    reasons = dict.fromkeys(refusal.reason for refusal in feature.refusals)
    for reason in reasons:
        flags = [_named(refusal) for refusal in feature.refusals if refusal.reason == reason]
        parts.append(f"{_flags(flags)} refused: {reason}" if len(reasons) > 1 or feature.served else reason)
    return [*parts, feature.note] if feature.note else parts


def _named(refusal: Refusal) -> str:
    """The flag, with the version of SGLang where only one has it."""
    return refusal.flag if refusal.versions == SUPPORTED_SGLANG else f"{refusal.flag} ({refusal.versions[0]})"


def _flags(flags: tuple[str, ...] | list[str]) -> str:
    return ", ".join(f"`{flag}`" for flag in flags)


def write() -> None:
    """Put the table in the place of the one that the page has."""
    before = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if not line.startswith("|")]
    PAGE.write_text("\n".join([*before, *HEAD, *rows(), ""]), encoding="utf-8")


if __name__ == "__main__":
    write()
