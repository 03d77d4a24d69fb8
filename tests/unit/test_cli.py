"""What `sglang-speed` itself says: its version, the names to choose from, and how it ends."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from typer.testing import CliRunner

import sglang_speed.lab.cli
from sglang_speed import SUPPORTED_SGLANG, ConfigError, __version__
from sglang_speed.lab.bench import ARCH_NAMES, PROFILE_NAMES, SCENARIO_NAMES
from sglang_speed.lab.cli import app, main
from sglang_speed.lab.evaluation import TASK_NAMES

ROOT = Path(__file__).parents[2]


def test_the_version_is_that_of_the_package_and_of_the_tested_hosts() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert pyproject["project"]["dynamic"] == ["version"]
    assert pyproject["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "sglang_speed.__version__"}
    (sglang,) = [each for each in map(Requirement, pyproject["project"]["dependencies"]) if each.name == "sglang"]
    released = [f"0.5.{number}" for number in range(15, 26)]
    assert tuple(sglang.specifier.filter(released)) == SUPPORTED_SGLANG
    printed = CliRunner().invoke(app, ["--version"])
    assert (printed.exit_code, printed.stdout) == (
        0,
        f"sglang-speed {__version__}, tested with SGLang {' and '.join(SUPPORTED_SGLANG)}\n",
    )


@pytest.mark.parametrize(
    ("command", "names"),
    [("bench", (*PROFILE_NAMES, *ARCH_NAMES, *SCENARIO_NAMES)), ("eval", TASK_NAMES)],
    ids=["bench", "eval"],
)
def test_help_lists_the_names_to_choose_from(command: str, names: tuple[str, ...]) -> None:
    words = CliRunner().invoke(app, [command, "--help"]).stdout.replace(",", " ").replace(";", " ").split()
    assert set(names) <= set(words)


def test_the_listed_names_are_those_that_exist() -> None:
    from sglang_speed.lab.bench.profiles import PROFILES, PUBLISHED
    from sglang_speed.lab.bench.scenarios import SCENARIOS
    from sglang_speed.lab.evaluation.command import TASK_NAMES as TASKS

    assert (tuple(PROFILES), tuple(PUBLISHED)) == (PROFILE_NAMES, ARCH_NAMES)
    assert (tuple(SCENARIOS), TASKS) == (SCENARIO_NAMES, TASK_NAMES)


def test_an_unknown_profile_is_refused_before_anything_is_imported() -> None:
    with pytest.raises(ConfigError, match="--profile tpu is not one of cpu, gpu, rehearsal: choose one of these"):
        CliRunner().invoke(app, ["bench", "--profile", "tpu"], catch_exceptions=False)


@pytest.mark.parametrize(
    ("arguments", "is_hinted"),
    [
        (["serve", "model", "--port", "31777"], True),
        (["bench", "--tp-size", "2"], True),
        (["serve", "model", "--frobnicate", "--", "--port", "31777"], False),
        (["convert", "model", "--port", "31777"], False),
    ],
)
def test_a_flag_of_sglang_in_the_wrong_place_is_told_its_place(
    arguments: list[str], is_hinted: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["sglang-speed", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code, "stand behind `--`" in capsys.readouterr().err) == (2, is_hinted)


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (ConfigError("--flag 3 is wrong"), 2, "sglang-speed: --flag 3 is wrong\n"),
        (OSError(28, "No space left on device", "out.json"), 1, "No space left on device: 'out.json'\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_what_stops_a_command_is_one_line_and_a_status(
    error: BaseException, status: int, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped() -> None:
        raise error

    monkeypatch.setattr(sglang_speed.lab.cli, "app", stopped)
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert (ended.value.code, said.count("\n")) == (status, bool(words))
    assert said.endswith(words)
