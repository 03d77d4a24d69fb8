"""Every feature says what is served, with a proof that exists, and docs/features.md says the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from sglang_speed import features
from sglang_speed.features import FEATURES, MODULES, REFUSALS, Feature, Status
from tests.inprocess.features.table import PAGE, ROOT, rows


def test_every_file_of_the_folder_is_asked() -> None:
    files = {path.stem for path in Path(features.__file__).parent.glob("*.py")}
    assert files - {"__init__", "base"} == {module.__name__.rpartition(".")[2] for module in MODULES}


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.name)
def test_what_is_served_has_a_proof_and_nothing_else_has(feature: Feature) -> None:
    assert feature.served or feature.refusals
    assert bool(feature.served) == bool(feature.proof)
    assert [path for path in feature.proof if not (ROOT / path).is_file()] == []


@pytest.mark.parametrize(
    ("name", "status"),
    [("PD disaggregation", Status.REFUSED), ("tensor and data parallelism, several machines", Status.PARTLY)],
)
def test_the_status_is_what_the_flags_say(name: str, status: Status) -> None:
    assert {feature.name: feature.status for feature in FEATURES}[name] == status


def test_names_and_flags_are_said_once() -> None:
    flags = [(refusal.flag, version) for refusal in REFUSALS for version in refusal.versions]
    for said in ([feature.name for feature in FEATURES], flags):
        assert len(set(said)) == len(said)


def test_the_page_has_a_row_for_every_feature() -> None:
    """Where this fails: `python -m tests.inprocess.features.table`."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("| [")] == rows()
