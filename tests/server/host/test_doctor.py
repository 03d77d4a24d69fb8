"""`sglang-speed doctor` says what a server would say, without one."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sglang_speed.host import versions
from sglang_speed.lab.cli import app
from sglang_speed.lab.doctor import Finding, findings
from tests.tiny_models import make_tiny_model


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    yield
    logging.disable(logging.NOTSET)


def verdicts(found: list[Finding]) -> dict[str, bool | None]:
    return {each.subject: each.fits for each in found}


def test_a_speed_model_fits(tmp_path: Path) -> None:
    path = make_tiny_model(tmp_path, speed={"prefill_layers": 6})
    found = list(findings(str(path)))
    assert {"SGLang", "changes to SGLang", str(path)} <= {name for name, fits in verdicts(found).items() if fits}
    assert "LlamaForCausalLM, prompts in 6 of 8 layers" in [each.found for each in found]
    assert found[-1].found == "attention torch_native, bfloat16, KV cache auto, pages of 1, context 2048"


def test_another_model_is_none_of_ours(tmp_path: Path) -> None:
    path = make_tiny_model(tmp_path)
    assert verdicts(list(findings(str(path))))[str(path)] is None


def test_a_model_that_is_refused_does_not_fit(tmp_path: Path) -> None:
    path = make_tiny_model(tmp_path, speed={"prefill_layers": 6})
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "mlp_bias": True}))
    last = list(findings(str(path)))[-1]
    assert (last.fits, "mlp_bias" in last.found) == (False, True)


def test_a_model_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    last = list(findings(str(tmp_path / "nowhere")))[-1]
    assert (last.fits, "neither a directory nor a model" in last.found) == (False, True)


def test_another_version_ends_the_examination(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "installed_version", lambda: "0.5.20")
    found = list(findings("speed-llama"))
    assert (found[-1].subject, found[-1].fits) == ("SGLang", False)
    assert "install sglang==0.5.23" in found[-1].found
    printed = CliRunner().invoke(app, ["doctor", "speed-llama", "--json"])
    assert (printed.exit_code, json.loads(printed.stdout)) == (1, [asdict(each) for each in found])
