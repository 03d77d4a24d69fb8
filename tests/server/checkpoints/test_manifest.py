"""Which damage the check at every start finds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sglang_speed.checkpoints import manifest
from sglang_speed.checkpoints.manifest import MANIFEST_NAME, find_damage, write_manifest

WEIGHTS = b"w" * 1000


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory whose weights are too large for the quick check to hash."""
    monkeypatch.setattr(manifest, "_QUICK_HASH_BYTES", 100)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(WEIGHTS)
    write_manifest(tmp_path)
    return tmp_path


def test_an_untouched_directory_has_no_damage(finished: Path) -> None:
    assert find_damage(finished) is None
    assert find_damage(finished, every_byte=True) is None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "model.safetensors").write_bytes(WEIGHTS[:-1]), "has 999 bytes instead of 1000"),
        (lambda path: (path / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda path: (path / "config.json").write_text("[]"), "config.json has other contents"),
        (lambda path: (path / MANIFEST_NAME).unlink(), f"{MANIFEST_NAME} is missing or broken"),
        (lambda path: (path / MANIFEST_NAME).write_text("{"), f"{MANIFEST_NAME} is missing or broken"),
    ],
)
def test_damage_is_named(damage: Callable[[Path], object], message: str, finished: Path) -> None:
    damage(finished)
    assert message in (find_damage(finished) or "")


def test_changed_weights_of_the_same_size_are_found_when_every_byte_is_read(finished: Path) -> None:
    (finished / "model.safetensors").write_bytes(WEIGHTS[:-1] + b"x")
    assert find_damage(finished) is None
    assert "other contents" in (find_damage(finished, every_byte=True) or "")


def test_a_directory_that_is_not_there_is_damaged(tmp_path: Path) -> None:
    assert find_damage(tmp_path / "nowhere")
