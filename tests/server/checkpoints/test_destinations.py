"""Where a checkpoint can be made, what an interruption leaves there, and who may read it."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from sglang_speed.checkpoints import convert as convert_module
from sglang_speed.checkpoints.atomic import writing_to
from sglang_speed.checkpoints.convert import convert
from sglang_speed.config import SpeedConfig
from sglang_speed.errors import ConfigError
from tests.server.checkpoints.helpers import config_of, kill_when, names_in, start_python

HANG_BEFORE_CONFIG = """
import sys, time
from pathlib import Path
from sglang_speed.checkpoints import convert
def hang(*args):
    print("hangs", flush=True)
    time.sleep(600)
convert._write_json = hang
convert.convert(Path(sys.argv[1]), Path(sys.argv[2]), prefill_layers=3)
"""


def test_a_destination_in_use_is_refused(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for destination in (llama, tmp_path / "file"):
        with pytest.raises(ConfigError, match="exists and is not empty: choose another"):
            convert(llama, destination, prefill_layers=3)


def test_an_empty_destination_is_taken(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "speed").mkdir()
    assert SpeedConfig.from_checkpoint(convert(llama, tmp_path / "speed", prefill_layers=3).path)


@pytest.mark.parametrize(
    ("destination", "reason"),
    [
        ("file/speed", "Not a directory"),
        ("loop/speed", "Symlink loop|Too many levels"),
        ("n" * 256, "File name too long"),
        ("/proc/speed", "No such file"),
    ],
)
def test_a_destination_that_cannot_be_written_is_named(
    destination: str, reason: str, llama: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ConfigError, match=rf"{destination} cannot be written .*({reason}).*: choose "):
        convert(llama, tmp_path / destination, prefill_layers=3)


@pytest.mark.parametrize(
    "error",
    [
        *(OSError(number, os.strerror(number)) for number in (errno.EROFS, errno.EACCES, errno.EDQUOT, errno.ENOSPC)),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
    ids=lambda error: str(error)[-30:],
)
def test_what_the_system_refuses_is_a_clear_error(error: Exception, tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match=r"speed cannot be written .*: choose a place with room"),
        writing_to(tmp_path / "speed"),
    ):
        raise error


def test_files_have_the_umasks_mode_and_linked_weights_their_own(llama: Path, tmp_path: Path) -> None:
    (llama / "model.safetensors").chmod(0o600)
    (llama / "LICENSE").write_text("")
    (llama / "LICENSE").chmod(0o640)
    before = os.umask(0o027)
    try:
        made = {copy: convert(llama, tmp_path / f"{copy}", prefill_layers=3, copy=copy).path for copy in (False, True)}
    finally:
        os.umask(before)
    for copy, directory in made.items():
        weights, *others = (
            stat.S_IMODE(path.stat().st_mode) for path in sorted(directory.iterdir(), key=is_not_weights)
        )
        assert weights == (0o640 if copy else 0o600)
        assert set(others) == {0o640}


def is_not_weights(path: Path) -> bool:
    return path.suffix != ".safetensors"


def test_a_failed_conversion_leaves_nothing(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("interrupted")

    monkeypatch.setattr(convert_module, "_write_json", fail)
    with pytest.raises(RuntimeError, match="interrupted"):
        convert(llama, tmp_path / "speed", prefill_layers=3)
    assert names_in(tmp_path) == {"llama"}


def test_a_full_disk_is_a_clear_error(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "config.json")

    monkeypatch.setattr(convert_module, "_write_json", fail)
    with pytest.raises(ConfigError, match=r"speed cannot be written .No space left.*choose a place with room"):
        convert(llama, tmp_path / "speed", prefill_layers=3)


def test_a_killed_conversion_leaves_no_destination_and_the_next_one_succeeds(llama: Path, tmp_path: Path) -> None:
    kill_when(start_python(HANG_BEFORE_CONFIG, llama, tmp_path / "speed"), said="hangs")
    left = names_in(tmp_path) - {"llama"}
    assert [name for name in left if not name.startswith(".speed.partial-")] == []
    assert not any((tmp_path / name / "config.json").exists() for name in left)
    assert SpeedConfig.from_checkpoint(convert(llama, tmp_path / "speed", prefill_layers=3).path)


def test_of_two_conversions_to_one_place_the_later_is_refused(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    destination, fill = tmp_path / "speed", convert_module.fill_checkpoint

    def fill_while_another_finishes(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(convert_module, "fill_checkpoint", fill)
        convert(llama, destination, prefill_layers=2)
        return fill(*args, **kwargs)

    monkeypatch.setattr(convert_module, "fill_checkpoint", fill_while_another_finishes)
    with pytest.raises(ConfigError, match="filled by another process"):
        convert(llama, destination, prefill_layers=3)
    assert config_of(destination)["speed"]["prefill_layers"] == 2
    assert names_in(tmp_path) == {"llama", "speed"}
