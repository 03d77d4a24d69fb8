"""docs/features.md from the features themselves: `python -m tests.inprocess.features.table` writes its table anew."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from sglang_speed import SUPPORTED_SGLANG
from sglang_speed.features import MODULES, Feature, Refusal

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs/features.md"
HEAD = ("| feature | status | since | run on a GPU | served, with the proof | refused |", "|---|---|---|---|---|---|")


def rows() -> list[str]:
    """A line for each feature, in the order in which they are asked."""
    return [_row(module) for module in MODULES]


def _row(module: ModuleType) -> str:
    feature: Feature = module.FEATURE
    file = f"{module.__name__.replace('.', '/')}.py"
    since, gpu = (feature.since, feature.gpu or "no") if feature.served else ("", "")
    cells = [f"[{feature.name}](../{file})", feature.status, since, gpu, _served(feature), _refused(feature)]
    return f"| {' | '.join(cells)} |"


def _served(feature: Feature) -> str:
    links = ", ".join(f"[{Path(path).stem}](../{path})" for path in feature.proof)
    served = f"{_flags(feature.served)}: {links}" if feature.served else ""
    return "; ".join(filter(None, [served, feature.note]))


def _refused(feature: Feature) -> str:
    """Flags by reason."""
    by_reason: dict[str, list[str]] = {}
    for refusal in feature.refusals:
        by_reason.setdefault(refusal.reason, []).append(_named(refusal))
    return "; ".join(f"{_flags(flags)}: {reason}" for reason, flags in by_reason.items())


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
