"""The whole command against real servers: what it says of a model is what the reference says."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sglang_speed.config import SpeedConfig
from sglang_speed.host.versions import installed_version
from sglang_speed.lab.cli import app
from sglang_speed.policies import SpeedPolicy
from sglang_speed.reference.generation import score
from tests.server.conftest import SPEED
from tests.server.e2e.reference_answers import LOGPROB_ATOL, Reference
from tests.server.servers import forked_servers

SAMPLES = 6
TAIL = 5
SETTINGS = ("--task", "responses", "--task", "recall", "--samples", str(SAMPLES), "--tail-tokens", str(TAIL))
FLAGS = ("--", "--dtype", "float32", "--max-total-tokens", "8192", "--chunked-prefill-size", "256")


@pytest.fixture(scope="module")
def evaluated(tiny_speed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the tiny checkpoint at another tail than its own, and of its weights at full depth."""
    path = tmp_path_factory.mktemp("eval") / "eval.json"
    run_eval(f"tiny={tiny_speed}", *SETTINGS, "--json", str(path), "--plot", str(path.parent / "plots"), *FLAGS)
    return path


def run_eval(*arguments: str) -> str:
    with forked_servers():
        done = CliRunner().invoke(app, ["eval", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def expected_logprob(reference: Reference, speed: dict[str, int], references: Sequence[dict[str, Any]]) -> float:
    """Mean over all tokens of all responses. speed: the bands to compute them with."""
    served, reference.model.policies = reference.model.policies, (SpeedPolicy(SpeedConfig(8, **speed)),)
    try:
        logprobs = [
            logprob
            for one in references
            for logprob in score(
                reference.model, one["context"] + one["ids"], max(0, len(one["context"]) - speed["tail_tokens"])
            )[-len(one["ids"]) :]
        ]
    finally:
        reference.model.policies = served
    return sum(logprobs) / len(logprobs)


def test_perplexity_is_the_references(evaluated: Path, reference: Reference) -> None:
    results, drawn = read(evaluated), read(evaluated.with_suffix(".references.json"))["references"]
    assert [model["label"] for model in results["models"]] == ["full depth", "tiny, 6 of 8, tail 5"]
    full, speed = (model["tasks"]["responses"]["estimates"] for model in results["models"])
    expected = expected_logprob(reference, {**SPEED, "tail_tokens": TAIL}, drawn)
    assert speed["logprob"]["value"] == pytest.approx(expected, abs=LOGPROB_ATOL)
    assert speed["perplexity"]["value"] == pytest.approx(math.exp(-expected), rel=LOGPROB_ATOL)
    everything = max(len(one["context"]) for one in drawn)
    at_full_depth = expected_logprob(reference, {**SPEED, "tail_tokens": everything}, drawn)
    assert full["logprob"]["value"] == pytest.approx(at_full_depth, abs=LOGPROB_ATOL)


def test_full_depth_agrees_with_itself_and_a_random_speed_model_does_not(evaluated: Path) -> None:
    full, speed = (model["tasks"]["responses"]["estimates"] for model in read(evaluated)["models"])
    assert full["agreement"]["value"] == 1
    assert full["perplexity"]["ratio"] == pytest.approx(1, abs=1e-4)
    assert speed["agreement"]["value"] < 1
    assert speed["perplexity"]["ratio"] > 1


def test_a_run_that_is_repeated_asks_nothing(evaluated: Path, tiny_speed: Path) -> None:
    before = read(evaluated)
    printed = run_eval(f"tiny={tiny_speed}", *SETTINGS, "--json", str(evaluated), *FLAGS)
    assert "full depth" in printed
    assert "recall" in printed
    assert read(evaluated) == before


def test_what_was_measured_and_where_is_in_the_file(evaluated: Path) -> None:
    results = read(evaluated)
    assert results["suite"]["num_samples"] == SAMPLES
    assert results["suite"]["flags"] == list(FLAGS[1:])
    for model in results["models"]:
        assert set(model["tasks"]) == {"responses", "recall"}
        runs = [results["runs"][task["run"]] for task in model["tasks"].values()]
        assert {run["versions"]["sglang"] for run in runs} == {installed_version()}
    answers = list(evaluated.with_name("eval-logs").glob("*recall.jsonl"))
    assert len(answers) == len(results["models"])
    assert (evaluated.parent / "plots" / "quality.png").is_file()
