"""`sglang-speed cutoff` as a user types it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sglang_speed.checkpoints.adapter import PROVENANCE_NAME
from sglang_speed.checkpoints.convert import convert
from sglang_speed.errors import ConfigError
from sglang_speed.lab.cli import app
from tests.unit.cutoff.conftest import NUM_LAYERS, write_chats


def run_cutoff(*args: object) -> str:
    """What the command prints; its errors are raised."""
    return CliRunner().invoke(app, ["cutoff", *map(str, args)], catch_exceptions=False).stdout


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "chats.jsonl"
    questions = [f"Question number {number}?" for number in range(6)]
    return write_chats(path, *[[("user", question), ("assistant", "An answer.")] for question in questions])


def test_a_speed_checkpoint_and_chats_become_a_table_a_file_and_a_picture(
    plain_directory: Path, chats: Path, tmp_path: Path
) -> None:
    speed = convert(plain_directory, tmp_path / "speed", prefill_layers=3, anchor_tokens=2, tail_tokens=5).path
    files = {name: tmp_path / "out" / f"cutoff.{name}" for name in ("json", "png")}
    printed = run_cutoff(speed, "--data", chats, "--samples", 4, "--json", files["json"], "--plot", files["png"])
    assert "no recommendation: chats.jsonl: 4 of 32 answers, 44 of 512 tokens in answers, none" in " ".join(
        printed.split()
    )
    assert "by kind" not in printed, "none of the kinds was found"
    assert files["png"].read_bytes().startswith(b"\x89PNG")
    results = json.loads(files["json"].read_text(encoding="utf-8"))
    assert results["model"] == "speed"
    assert results["visibility"] == {"anchor_tokens": 2, "tail_tokens": 5}
    assert results["texts"]["source"] == "chats.jsonl"
    assert results["requests"]["num"] == 4
    assert results["requests"]["response_tokens"] == 4 * (len("An answer.") + 1)
    assert [len(results["importance"][kind]) for kind in ("prompt", "response")] == [NUM_LAYERS, NUM_LAYERS]
    assert results["recommendation"] == {"max_kl": 0.1} | dict.fromkeys(("untrained", "trained", "at_rest", "ttft"))
    series = ["speed,tail_tokens=128", "pop", *(f"fastkv,select_ratio={ratio}" for ratio in (0.2, 0.4, 0.8))]
    assert [one["series"] for one in results["settings"]] == [name for name in series for _ in range(2)]
    assert all(name in printed for name in ("pop", "select_ratio=0.4"))
    figures = {one["prefill_layers"]: one for one in results["cutoffs"]}
    assert list(figures) == [0, 2, 3, 4]
    assert figures[4]["divergence"] == {"value": 0.0, "error": 0.0}
    assert [figures[cutoff]["ceiling"] for cutoff in (0, 2, 3)] == [None, 2.0, pytest.approx(4 / 3)]
    assert figures[0]["prompt_importance_above"] == 1.0
    assert figures[4]["prompt_importance_above"] == 0.0
    assert str(tmp_path) not in json.dumps(results)


def test_the_same_seed_gives_the_same_figures(plain_directory: Path, chats: Path, tmp_path: Path) -> None:
    def figures(seed: int) -> Any:
        path = tmp_path / "out.json"
        flags = ("--samples", 3, "--seed", seed, "--cutoff", 3, "--policy", "speed", "--json", path)
        assert "policy" not in run_cutoff(plain_directory, "--data", chats, *flags)
        return json.loads(path.read_text(encoding="utf-8"))["importance"]

    assert figures(0) == figures(0) != figures(1)


def test_without_chats_the_model_answers_built_in_prompts(plain_directory: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    run_cutoff(plain_directory, "--samples", 2, "--max-tokens", 300, "--cutoff", 2, "--json", path)
    results = json.loads(path.read_text(encoding="utf-8"))
    assert results["requests"]["num"] == 2
    assert results["requests"]["prompt_len"]["most"] <= 300 - 64
    assert [one["prefill_layers"] for one in results["cutoffs"]] == [0, 2, 4]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--cutoff", 9), r"prefill_layers=9 is not between 1 and 4"),
        (("--cutoff", 0), r"prefill_layers=0 is not between 1 and 4"),
        (("--policy", "pap"), "--policy pap is not one of speed, pop, fastkv"),
        (("--policy", "pop,select_ratio=1"), "select_ratio.* belong to policy 'fastkv'"),
        (("--max-kl", 0), r"--max-kl 0 is not above 0: .*0\.1 is the default"),
        (("--samples", 1), r"--samples 1 is below 2"),
        (("--tail-tokens", 0), r"tail_tokens=0 is below 1"),
        (("--anchor-tokens", -1), r"anchor_tokens=-1 is negative"),
        (
            ("--tail-tokens", 500),
            r"has 0 of 2 needed answers, out of 6, .* longer than the anchors and the tail: give more",
        ),
        (("--data", "no/such.jsonl"), r"no/such\.jsonl cannot be read"),
    ],
)
def test_a_mistake_names_the_value_the_rule_and_the_fix(
    plain_directory: Path, chats: Path, flags: tuple[object, ...], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        run_cutoff(plain_directory, "--data", chats, *flags)


def test_a_place_that_cannot_be_written_is_refused_before_the_model_is_read(chats: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    for flag in ("--json", "--plot"):
        with pytest.raises(ConfigError, match=r"file/out cannot be written"):
            run_cutoff("no/such/model", "--data", chats, flag, tmp_path / "file" / "out")


def test_what_is_not_a_complete_llama_is_refused(plain_directory: Path, chats: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is neither a directory"):
        run_cutoff("no/such/model", "--data", chats)
    broken = Path(shutil.copytree(plain_directory, tmp_path / "broken"))
    (broken / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"has no model\.safetensors"):
        run_cutoff(broken, "--data", chats)


def test_a_trained_checkpoint_has_no_full_depth_to_measure(plain_directory: Path, chats: Path, tmp_path: Path) -> None:
    trained = convert(plain_directory, tmp_path / "trained", prefill_layers=3).path
    (trained / PROVENANCE_NAME).write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"trained was trained for its cutoff .* cannot be measured; name the model"):
        run_cutoff(trained, "--data", chats)
