"""What a user sees of `sglang-speed`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from sglang_speed.checkpoints.adapter import UNTRAINED_COST, UNTRAINED_NEXT
from sglang_speed.config import SpeedConfig
from tests import forked
from tests.server.checkpoints.helpers import run_python


def command(*args: str | int | Path) -> subprocess.CompletedProcess[str]:
    return forked.run("-m", "sglang_speed.lab.cli", *map(str, args), timeout=120)


def test_convert_then_inspect(llama: Path, tmp_path: Path) -> None:
    made = command("convert", llama, tmp_path / "speed", "--prefill-layers", 3, "--tail-tokens", 8, "--copy")
    assert (made.returncode, made.stderr) == (0, "")
    first, *warning = made.stdout.splitlines()
    assert first == f"{tmp_path / 'speed'}: 3 of 4 prefill layers, policy speed, weights by copy"
    assert warning == [UNTRAINED_COST, UNTRAINED_NEXT]
    assert SpeedConfig.from_checkpoint(tmp_path / "speed") == SpeedConfig(4, 3, 1, 8)
    said = json.loads(command("inspect", tmp_path / "speed", "--json").stdout)
    assert (said["speed"]["tail_tokens"], said["training"]) == (8, "untrained")
    assert "75% of full depth" in command("inspect", tmp_path / "speed").stdout


def test_a_policy_that_needs_no_training_is_not_called_untrained(llama: Path, tmp_path: Path) -> None:
    made = command("convert", llama, tmp_path / "pop", "--prefill-layers", 3, "--policy", "pop", "--copy")
    assert made.stdout == f"{tmp_path / 'pop'}: 3 of 4 prefill layers, policy pop, weights by copy\n"
    assert SpeedConfig.from_checkpoint(tmp_path / "pop") == SpeedConfig(4, 3, 0, 1, policy="pop")
    said = " ".join(command("inspect", tmp_path / "pop").stdout.split())
    for part in ("filled in from the cutoff", "not needed", "100% of full depth", "125% of full depth"):
        assert part in said


def test_a_mistake_is_one_line_on_stderr_and_status_2(llama: Path, tmp_path: Path) -> None:
    for args in (
        ("convert", llama, tmp_path / "speed", "--prefill-layers", 9),
        ("convert", llama, llama, "--prefill-layers", 3),
        ("convert", llama, tmp_path / "speed", "--prefill-layers", 3, "--policy", "none"),
        ("inspect", llama),
        ("inspect", "no/such/place"),
        ("inspect", "n" * 256),
        ("convert", llama, "/proc/speed", "--prefill-layers", 3),
    ):
        failed = command(*args)
        assert (failed.returncode, failed.stdout) == (2, "")
        assert failed.stderr.startswith("sglang-speed: ")
        assert failed.stderr.count("\n") == 1


def test_the_command_imports_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "sglang", "numpy")
    code = f"import sys, sglang_speed.lab.cli; print([name for name in {heavy} if name in sys.modules])"
    assert run_python(code) == "[]\n"
