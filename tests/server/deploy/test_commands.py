"""What containers run and contain: SGLang knows the flags, and the copied files are enough to build the package."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path

import pytest
import yaml
from sglang.srt.server_args import ServerArgs

from tests.server.deploy.monitoring import ROOT

DOCKER, SERVER = ROOT / "deploy/docker", ROOT / "deploy/kubernetes/server/server.yaml"
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
(DEPLOYMENT,) = (
    each for each in yaml.safe_load_all(SERVER.read_text(encoding="utf-8")) if each["kind"] == "Deployment"
)
COMMANDS = {
    "Docker": COMPOSE["services"]["server"]["command"],
    "Kubernetes": DEPLOYMENT["spec"]["template"]["spec"]["containers"][0]["args"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_sglang_knows_the_flags(name: str) -> None:
    parser = ArgumentParser()
    ServerArgs.add_cli_args(parser)
    flags = COMMANDS[name][COMMANDS[name].index("--") + 1 :]
    parsed = parser.parse_args(["--model-path", "/models/model", *flags])
    assert (parsed.host, parsed.port, parsed.enable_metrics) == ("0.0.0.0", 30000, True)


def test_the_files_that_the_image_copies_are_enough_to_build_the_package(tmp_path: Path) -> None:
    dockerfile = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
    for line in re.findall(r"^COPY (.+) \S+$", dockerfile, re.MULTILINE):
        for name in line.split():
            if (ROOT / name).is_dir():
                shutil.copytree(
                    ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors")
                )
            else:
                shutil.copy(ROOT / name, tmp_path / name)
    build = "import setuptools.build_meta as build; print(build.prepare_metadata_for_build_wheel('.'))"
    built = subprocess.run([sys.executable, "-c", build], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / built.stdout.split()[-1] / "METADATA").is_file()
