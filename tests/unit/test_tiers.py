"""A test file is told where it belongs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import tiers

WRONG = {
    "unit/x/test_a.py": ("from tests.server.servers import running_server", "tests/server/x/test_a.py"),
    "unit/test_b.py": ("import subprocess", "tests/server/test_b.py"),
    "unit/x/test_c.py": ("import sglang.srt", "tests/inprocess/x/test_c.py"),
    "inprocess/x/test_d.py": ("import json", "tests/unit/x/test_d.py"),
    "gpu/test_e.py": ("import subprocess", "tests/server/test_e.py"),
    "x/test_f.py": ("import json", "tests/unit/x/test_f.py"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_in_a_wrong_folder_is_told_the_right_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiers, "ROOT", tmp_path)
    content, right = WRONG[name]
    path = tmp_path / "tests" / name
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert f"so it belongs at {right}" in str(tiers.misplacement(path))
    moved = tmp_path / right
    moved.parent.mkdir(parents=True)
    path.rename(moved)
    assert tiers.misplacement(moved) is None
