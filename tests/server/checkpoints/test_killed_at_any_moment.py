"""Builds and conversions that are killed before each of their file operations: what is there is whole, or absent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sglang_speed.checkpoints import smollm2
from tests.server.checkpoints.helpers import run_python
from tests.tiny_models import make_tiny_model

# Forks once per moment. argv = what to do, a Llama checkpoint, a directory for the results
PROGRAM = """
import itertools, json, os, shutil, signal, sys
from pathlib import Path
from sglang_speed.checkpoints import atomic, manifest, smollm2
from sglang_speed.checkpoints.convert import convert
from sglang_speed.checkpoints.default_model import default_model, default_model_directory
from sglang_speed.checkpoints.weights import read_weights
import filelock, huggingface_hub.repocard, numpy, rich.console, rich.progress, safetensors

OPERATIONS = {"open", "os.mkdir", "os.rename", "os.link", "os.symlink", "os.remove", "os.rmdir"}
task, source, root = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
smollm2.locate_gguf = lambda: None
def write(gguf, directory, track, change):
    shutil.copytree(source, directory, dirs_exist_ok=True)
smollm2.write_llama_checkpoint = write

def work():
    if task == "convert":
        convert(source, destination, prefill_layers=3, copy=True)
    else:
        default_model()

def die_at(moment):
    count = itertools.count()
    def die(event, args):
        if event in OPERATIONS and str(args[0]).startswith(str(root)) and next(count) == moment:
            os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(die)

def in_child(moment=None):
    pid = os.fork()
    if pid == 0:
        if moment is not None:
            die_at(moment)
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def require_whole():
    if task == "convert":
        read_weights(destination)
        assert {path.name: path.read_bytes() for path in destination.iterdir()} == whole
    else:
        assert manifest.find_damage(destination, every_byte=True) is None

destination = root / "made" if task == "convert" else default_model_directory()
assert in_child() == 0
whole = {path.name: path.read_bytes() for path in destination.iterdir()}
seen = {"absent": 0, "whole": 0}
for moment in itertools.count():
    if task == "rebuild":
        with (destination / "model.safetensors").open("r+b") as weights:
            weights.truncate(100)
    else:
        shutil.rmtree(destination, ignore_errors=True)
    status = in_child(moment)
    if status == 0:
        break
    assert status == -signal.SIGKILL, status
    is_there = destination.exists()
    if is_there and not (task == "rebuild" and manifest.find_damage(destination)):
        require_whole()
    seen["whole" if is_there else "absent"] += 1
    if not (task == "convert" and is_there):
        assert in_child() == 0
    require_whole()
    assert task == "convert" or not list(destination.parent.glob(".*.partial-*"))
print(json.dumps({"moments": moment, **seen}))
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = {"hidden_size": 16, "num_heads": 2, "num_kv_heads": 1, "head_dim": 8}
    return make_tiny_model(tmp_path_factory.mktemp("tiny"), num_layers=smollm2.NUM_LAYERS, **shape)


def killed(task: str, source: Path, root: Path) -> dict[str, Any]:
    """How many moments there were, and after how many of them a destination was there or not."""
    output = run_python(PROGRAM, task, source, root, XDG_CACHE_HOME=str(root))
    seen: dict[str, Any] = json.loads(output.splitlines()[-1])
    return seen


@pytest.mark.parametrize("task", ["build", "convert"])
def test_what_is_killed_leaves_nothing_half_made(task: str, tiny: Path, tmp_path: Path) -> None:
    seen = killed(task, tiny, tmp_path)
    assert seen["moments"] > 10
    assert seen["absent"] > 10
    assert seen["absent"] + seen["whole"] == seen["moments"]


def test_a_killed_replacement_of_a_damaged_model_is_finished_by_the_next_start(tiny: Path, tmp_path: Path) -> None:
    """Until the new one is whole, the damaged one is gone or known to be damaged."""
    assert killed("rebuild", tiny, tmp_path)["moments"] > 20
