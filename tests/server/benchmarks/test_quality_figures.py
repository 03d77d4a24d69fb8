"""docs/quality.md says what the committed results say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
RESULTS = sorted((ROOT / "benchmarks/results").glob("quality_*.json"))


def test_the_page_has_the_figures_of_the_committed_results() -> None:
    script = ROOT / "benchmarks" / "quality_figures.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"run `python benchmarks/quality_figures.py`: {done.stdout}{done.stderr}"


def test_the_committed_results_are_of_commits() -> None:
    read = [json.loads(path.read_text(encoding="utf-8")) for path in RESULTS if ".references" not in path.name]
    assert read
    for run in [run for results in read for run in results["runs"]]:
        assert len(run["commit"]) == 40
        assert run["uncommitted_changes"] is False
