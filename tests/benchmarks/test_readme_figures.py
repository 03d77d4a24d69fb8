"""The README says what the committed results say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "readme_figures.py"
RESULTS = ROOT / "benchmarks" / "results" / "bench_cpu.json"


def test_the_readme_has_the_figures_of_the_committed_results() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"run `python benchmarks/readme_figures.py`: {done.stdout}{done.stderr}"


def test_the_committed_results_are_of_a_commit_and_of_all_scenarios() -> None:
    from sglang_speed.bench.scenarios import SCENARIOS

    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert len(results["commit"]) == 40
    assert results["uncommitted_changes"] is False
    assert set(results["scenarios"]) == set(SCENARIOS)
