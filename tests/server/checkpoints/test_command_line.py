"""What a user sees of `sglang-speed`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from sglang_speed.checkpoints.adapter import UNTRAINED_COST, UNTRAINED_NEXT
from sglang_speed.config import SpeedConfig
from tests import forked
from tests.server.checkpoints.helpers import edit_json, run_python


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


def test_convert_says_in_json_what_inspect_does(llama: Path, tmp_path: Path) -> None:
    made = command("convert", llama, tmp_path / "pop", "--prefill-layers", 3, "--policy", "pop", "--copy", "--json")
    told = json.loads(made.stdout)
    assert (told["path"], told["training"]) == (str(tmp_path / "pop"), "not_needed")
    assert (told["speed"]["policy"], told["speed"]["prefill_layers"]) == ("pop", 3)
    assert told.pop("placement") == "copy"
    assert told == json.loads(command("inspect", tmp_path / "pop", "--json").stdout)


def test_a_policy_that_needs_no_training_is_not_called_untrained(llama: Path, tmp_path: Path) -> None:
    made = command("convert", llama, tmp_path / "pop", "--prefill-layers", 3, "--policy", "pop", "--copy")
    assert made.stdout == f"{tmp_path / 'pop'}: 3 of 4 prefill layers, policy pop, weights by copy\n"
    assert SpeedConfig.from_checkpoint(tmp_path / "pop") == SpeedConfig(4, 3, 0, 1, policy="pop")
    said = " ".join(command("inspect", tmp_path / "pop").stdout.split())
    for part in ("filled in from the cutoff", "published for", "100% of full depth", "125% of full depth"):
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


def served(*args: str | int | Path, cache: Path) -> subprocess.CompletedProcess[str]:
    command = ("-m", "sglang_speed.lab.cli", "serve", "--dry-run", *map(str, args))
    return forked.run(*command, timeout=120, XDG_CACHE_HOME=str(cache))


def test_serve_converts_once_and_names_the_model_as_the_user_did(llama: Path, tmp_path: Path) -> None:
    said = [served(llama, "--policy", "pop", "--", "--port", 1, cache=tmp_path).stdout.splitlines() for _ in range(2)]
    assert said[0] == said[1]
    assert said[0][0] == "--prefill-layers was left out: prompts pass 2 of 4 layers"
    words = said[0][-1].split()
    naming = ["--served-model-name", str(llama), "--port", "1"]
    assert words[2:] == ["-m", "sglang.launch_server", "--model-path", words[5], *naming]
    (made,) = (tmp_path / "sglang-speed" / "served").glob("llama-pop-*[!k]")
    assert Path(words[5]) == made
    assert SpeedConfig.from_checkpoint(made) == SpeedConfig(4, 2, 0, 1, policy="pop")
    assert (made / "model.safetensors").samefile(llama / "model.safetensors")


def test_serve_converts_again_for_other_bands_and_other_files(llama: Path, tmp_path: Path) -> None:
    first = served(llama, "--prefill-layers", 3, cache=tmp_path)
    other = served(llama, "--prefill-layers", 2, cache=tmp_path)
    edit_json(llama / "config.json", max_position_embeddings=64)
    changed = served(llama, "--prefill-layers", 3, cache=tmp_path)
    assert len({run.stdout.splitlines()[-1] for run in (first, other, changed)}) == 3


def test_serve_takes_a_speed_checkpoint_as_it_is(llama: Path, tmp_path: Path) -> None:
    command("convert", llama, tmp_path / "speed", "--prefill-layers", 3)
    said = served(tmp_path / "speed", "--", "--served-model-name=mine", cache=tmp_path).stdout.splitlines()[-1]
    assert said.endswith(f"--model-path {tmp_path / 'speed'} --served-model-name=mine")
    assert not (tmp_path / "sglang-speed").exists()


def test_serve_refuses_what_would_be_served_otherwise_than_asked(llama: Path, tmp_path: Path) -> None:
    command("convert", llama, tmp_path / "speed", "--prefill-layers", 3)
    for args, words in (
        ((tmp_path / "speed", "--prefill-layers", 2), "--prefill-layers is for a checkpoint without bands"),
        ((llama, "--policy", "none"), "--policy none is not one of speed, pop, fastkv"),
        ((llama, "--prefill-layers", 9), "prefill_layers=9 is not between 1 and 4"),
        ((llama, "--", "--model-path", "other"), "--model-path is among SGLang's flags"),
        (("no/such/place",), "no/such/place is neither a directory nor a model in the hub's cache"),
    ):
        failed = served(*args, cache=tmp_path)
        assert (failed.returncode, failed.stderr.count("\n")) == (2, 1)
        assert words in failed.stderr


def test_the_command_imports_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "sglang", "numpy")
    code = f"import sys, sglang_speed.lab.cli; print([name for name in {heavy} if name in sys.modules])"
    assert run_python(code) == "[]\n"
