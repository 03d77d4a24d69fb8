"""The whole command against real servers, with sizes whose times mean nothing and whose counts must be right."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sglang_speed.host.versions import installed_version
from sglang_speed.lab.bench.profiles import REHEARSAL
from sglang_speed.lab.cli import app
from sglang_speed.method.cost import ModelShape
from tests.server.servers import forked_servers

SCENARIOS = ("capacity", "chat")
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("bench")
    command = ["bench", "--profile", "rehearsal", "--arch", "qwen3_moe"]
    command += [part for name in SCENARIOS for part in ("--scenario", name)]
    command += ["--json", str(out / "bench.json"), "--plot", str(out / "plots"), "--html", str(out / "bench.html")]
    with forked_servers():
        done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return out, done.stdout


@pytest.fixture(scope="module")
def results(finished: tuple[Path, str]) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((finished[0] / "bench.json").read_text(encoding="utf-8"))
    return read


def figure_of(results: dict[str, Any], scenario: str, begin: str) -> dict[str, Any]:
    (found,) = (one for one in results["scenarios"][scenario]["figures"] if one["figure"].startswith(begin))
    return dict(found)


def test_the_file_has_what_was_asked_and_where_it_was_measured(results: dict[str, Any]) -> None:
    assert set(results["scenarios"]) == set(SCENARIOS)
    for scenario in results["scenarios"].values():
        assert {"stock", "speed", "ratio", "ceiling", "figures"} <= set(scenario)
    assert results["versions"]["sglang"] == installed_version()
    asked = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    assert results["commit"] == (asked.stdout.strip() or None)
    assert results["machine"]["cores"] >= 1
    assert results["configuration"]["rivals"]["speed"]["prefill_layers"] == REHEARSAL.prefill_layers
    assert results["configuration"]["shape"]["experts"]["per_token"] == 2


def test_both_servers_held_what_the_arithmetic_says(results: dict[str, Any]) -> None:
    pool = REHEARSAL.cache_pool
    tokens = figure_of(results, "capacity", "prompt tokens")
    assert tokens["stock"] == pool.tokens
    assert tokens["speed"] == (pool.tokens * 8 - pool.deep_tokens * 2) // 6
    each = REHEARSAL.capacity_prompt + REHEARSAL.capacity_tokens
    for begin in ("prompts of", "requests that run"):
        found = figure_of(results, "capacity", begin)
        assert {side: found[side] for side in ("stock", "speed")} == {
            side: tokens[side] // each for side in ("stock", "speed")
        }


def test_only_the_chat_that_does_not_fit_at_full_depth_is_hit_more_often(results: dict[str, Any]) -> None:
    below = figure_of(results, "chat", "hit rate, working set 0.8x")
    above = figure_of(results, "chat", "hit rate, working set 1.2x")
    assert below["speed"] == pytest.approx(below["stock"], abs=0.03)
    assert above["speed"] > above["stock"] + 0.1


def test_no_side_held_more_kv_than_it_may(results: dict[str, Any]) -> None:
    per_layer = ModelShape.from_dict(results["configuration"]["shape"]).kv_bytes_per_layer
    budget = REHEARSAL.cache_pool.tokens * REHEARSAL.num_layers * per_layer
    held = results["series"]["KV held, 1.2"]
    for side in ("stock", "speed"):
        assert 0.5 * budget < max(size for _, size in held[side]) <= budget


def test_table_pictures_and_page_are_there(finished: tuple[Path, str]) -> None:
    out, printed = finished
    assert "at most 1.33x" in printed
    assert "requests that run at once" in printed
    assert "rehearsal: sizes too small, figures mean nothing" in printed
    assert sorted(path.name for path in (out / "plots").iterdir()) == ["kv.png", "turns.png"]
    page = (out / "bench.html").read_text(encoding="utf-8")
    assert "a Qwen3-MoE of random weights" in page
    assert page.count("data:image/png") == 2
