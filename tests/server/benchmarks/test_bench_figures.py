"""The README, docs/gpu.md and docs/benchmark.md say what the committed results say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "benchmarks" / "bench_figures.py"
RESULTS = ROOT / "benchmarks" / "results"


def test_the_pages_have_the_figures_of_the_committed_results() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"run `python benchmarks/bench_figures.py`: {done.stdout}{done.stderr}"


def test_the_committed_results_of_a_cpu_are_of_a_commit_and_of_all_scenarios() -> None:
    from sglang_speed.lab.bench.scenarios import SCENARIOS

    results = json.loads((RESULTS / "bench_cpu.json").read_text(encoding="utf-8"))
    assert len(results["commit"]) == 40
    assert results["uncommitted_changes"] is False
    assert set(results["scenarios"]) == set(SCENARIOS) - {"agents"}  # which has not been measured yet


def test_the_committed_results_of_a_gpu_have_all_contenders() -> None:
    results = json.loads((RESULTS / "bench_gpu.json").read_text(encoding="utf-8"))
    assert results["machine"]["gpu"].startswith("NVIDIA")
    assert results["failed"] == []
    assert {sample["contender"] for sample in results["samples"]} == {"stock", "speed", "equal"}
