"""From samples to the results file, the table, the pictures and the page."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from sglang_speed.bench.plots import PLOTS, draw
from sglang_speed.bench.report import html_report, line_of, terminal_table
from sglang_speed.bench.results import Figure, Point, Sample, by_scenario, missed, rows, spread
from sglang_speed.bench.run import series

TTFT = Figure("prefill", "TTFT, 8192 tokens", "s", ceiling=1.33, target=1.28, is_headline=True)
SHORT = Figure("prefill", "TTFT, 1024 tokens", "s", ceiling=1.32)
TOKENS = Figure("capacity", "prompt tokens in the pool", "tokens", 4 / 3, 1.3, "higher")
EQUAL = Figure("overhead", "TTFT, 1024 tokens", "s", 1.0, 0.98, rival="equal")
SAMPLES = [
    *(Sample(SHORT, side, value) for side, value in (("stock", 2.0), ("speed", 1.6))),
    *(Sample(TTFT, "stock", value) for value in (10.0, 12.0, 11.0)),
    *(Sample(TTFT, "speed", value) for value in (8.8, 8.0, 9.0)),
    Sample(TOKENS, "stock", 12288),
    Sample(TOKENS, "speed", 15000),
    Sample(EQUAL, "stock", 2.0),
    Sample(EQUAL, "equal", 1.99),
]
POINTS = [
    Point(name, side, x, y)
    for name in ("TTFT by context", "TPOT by context", "KV held, 1.2", "hit rate by turn, 1.2", "TTFT by turn, 1.2")
    for side in ("stock", "speed")
    for x, y in ((1024, 0.4), (8192, 0.9))
] + [Point("requests at once", side, second, 5) for side in ("stock", "speed") for second in (1, 2)]


@pytest.fixture
def results() -> dict[str, Any]:
    made = {
        "commit": "0123abc",
        "uncommitted_changes": False,
        "machine": {"cpu": "a <cpu>", "cores": 2, "memory_gib": 24, "gpu": None},
        "versions": {"sglang": "0.5.17", "torch": "2.11.0"},
        "configuration": {
            "sizes": {"cache_pool": {"tokens": 12288}},
            "shape": {"num_kv_heads": 4, "head_dim": 64, "kv_dtype_bytes": 2},
            "speed": {"num_layers": 32, "prefill_layers": 24},
        },
        "scenarios": by_scenario(rows(SAMPLES)),
        "series": series(POINTS),
    }
    return json.loads(json.dumps(made))


def test_a_row_has_medians_the_gain_and_the_share_of_the_ceiling() -> None:
    row = next(row for row in rows(SAMPLES) if row.figure == TTFT)
    assert row.ratio == 11.0 / 8.8
    assert row.share_of_ceiling == pytest.approx(1.25 / 1.33)
    assert row.is_met is False
    assert spread(row.stock) == 2.0 / 11.0


def test_more_tokens_are_a_gain_and_less_time_is_one() -> None:
    by_name = {(row.figure.scenario, row.figure.name): row.ratio for row in rows(SAMPLES)}
    assert by_name["capacity", "prompt tokens in the pool"] == 15000 / 12288
    assert by_name["prefill", "TTFT, 1024 tokens"] == 2.0 / 1.6


def test_a_share_has_no_ratio() -> None:
    hits = Figure("chat", "hit rate", "share", better="higher")
    (row,) = rows([Sample(hits, "stock", 0.001), Sample(hits, "speed", 0.65)])
    assert row.ratio is None
    assert line_of(row.to_dict()).cells[:6] == ("hit rate", "0.1%", "", "65.0%", "", "")


def test_a_figure_with_one_side_only_is_left_out() -> None:
    assert rows([Sample(TTFT, "stock", 1.0)]) == []
    assert rows([Sample(EQUAL, "stock", 1.0), Sample(EQUAL, "speed", 1.0)]) == []


def test_each_scenario_has_stock_speed_ratio_and_ceiling_of_its_headline(results: dict[str, Any]) -> None:
    prefill = results["scenarios"]["prefill"]
    assert {key: prefill[key] for key in ("stock", "speed", "ceiling")} == {
        "stock": 11.0,
        "speed": 8.8,
        "ceiling": 1.33,
    }
    assert prefill["ratio"] == pytest.approx(1.25)
    assert prefill["figure"] == "TTFT, 8192 tokens"
    assert [figure["figure"] for figure in prefill["figures"]] == ["TTFT, 1024 tokens", "TTFT, 8192 tokens"]
    assert prefill["figures"][1]["samples"] == {"stock": [10.0, 12.0, 11.0], "speed": [8.8, 8.0, 9.0]}
    assert results["scenarios"]["overhead"]["speed"] == 1.99


def test_a_missed_target_is_said_and_a_met_one_is_not(results: dict[str, Any]) -> None:
    assert missed(results["scenarios"]) == [
        "prefill: TTFT, 8192 tokens: 1.25 of 1.28",
        "capacity: prompt tokens in the pool: 1.22 of 1.30",
    ]
    verdicts = {line.verdict for part in results["scenarios"].values() for line in map(line_of, part["figures"])}
    assert verdicts == {"met", "missed", ""}


def test_the_table_says_which_figures_are_of_full_depth(results: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console(width=160, record=True, file=StringIO())
    console.print(terminal_table(results))
    text = console.export_text()
    assert "TTFT, 1024 tokens, Lc = L" in text
    assert "1.280 missed" in text
    assert "12,288" in text


def test_every_picture_is_drawn_from_the_results_file(results: dict[str, Any], tmp_path: Path) -> None:
    paths = draw(results, tmp_path)
    assert [path.stem for path in paths] == list(PLOTS)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    results["series"] = {"TTFT by context": results["series"]["TTFT by context"]}
    assert [path.stem for path in draw(results, tmp_path)] == ["ttft"]


def test_the_page_needs_no_other_file_and_escapes_what_it_shows(results: dict[str, Any], tmp_path: Path) -> None:
    page = html_report(results, draw(results, tmp_path))
    assert page.count("data:image/png;base64,") == len(PLOTS)
    assert 'src="http' not in page
    assert "href=" not in page
    assert "a &lt;cpu&gt;" in page
    assert 'class="missed"' in page
