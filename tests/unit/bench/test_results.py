"""From samples to the results file, the table, the pictures and the page."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from sglang_speed.config import SpeedConfig
from sglang_speed.lab.bench.facts import SCENARIO_SIZES
from sglang_speed.lab.bench.load import arrivals
from sglang_speed.lab.bench.models import TINY, Contender, Model
from sglang_speed.lab.bench.plots import PLOTS, draw
from sglang_speed.lab.bench.profiles import CPU, REHEARSAL, Profile
from sglang_speed.lab.bench.report import QUESTIONS, gain, headline, html_report, line_of, terminal_table, value_of
from sglang_speed.lab.bench.results import Figure, Point, Sample, by_scenario, missed, rows, spread
from sglang_speed.lab.bench.run import Comparison, series
from sglang_speed.lab.bench.scenarios import SCENARIOS
from sglang_speed.method.cost import Rates

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"
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
DRAWN = (
    "TTFT by context",
    "TPOT by context",
    "KV held, 1.2",
    "hit rate by turn, 1.2",
    "TTFT by turn, 1.2",
    "TTFT of agents by context",
)
POINTS = [
    Point(name, side, x, y) for name in DRAWN for side in ("stock", "speed") for x, y in ((1024, 0.4), (8192, 0.9))
]


def results_of(comparison: Comparison) -> dict[str, Any]:
    """A results file, as it is read again, of an invented machine."""
    made = {
        "commit": "0123abc",
        "uncommitted_changes": False,
        "machine": {"cpu": "a <cpu>", "cores": 2, "memory_gib": 24, "gpu": None},
        "versions": {"sglang": "0.5.17", "torch": "2.11.0"},
        "rates": {"flops": 2e11, "bandwidth": 4e10},
        "configuration": comparison.configuration(),
        "scenarios": by_scenario(comparison.rows),
        "series": series(POINTS),
    }
    return json.loads(json.dumps(made))


def comparison_of(profile: Profile) -> Comparison:
    """Of a model that is not the one which the profile would make."""
    contenders = {name: Contender(name, Path(), SpeedConfig(4, depth)) for name, depth in (("stock", 4), ("speed", 3))}
    servers = {"prefill-capacity-overhead": {"stock": ["--dtype", "bfloat16"], "speed": ["A=1", "--dtype", "bfloat16"]}}
    names = {"model": "our-model", "profile": "cpu"}
    return Comparison(Model(TINY, contenders), profile, Rates(2e11, 4e10), names, samples=SAMPLES, servers=servers)


@pytest.fixture
def results() -> dict[str, Any]:
    return results_of(comparison_of(CPU))


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
    assert line_of(row.to_dict()).cells == ("hit rate", "SPEED", "0.1%", "65.0%", "", "", "")


@pytest.mark.parametrize(
    ("unit", "stock", "speed", "shown"),
    [
        ("s", 18.2263, 13.7812, ["18.23 s", "13.78 s"]),
        ("s", 1.0586, 0.32, ["1.059 s", "0.320 s"]),
        ("s", 0.0151, 0.01391, ["15.10 ms", "13.91 ms"]),
        ("tokens", 6144, 8000, ["6,144 tokens", "8,000 tokens"]),
        ("share", 0.001, 0.65, ["0.1%", "65.0%"]),
    ],
)
def test_every_value_has_its_unit(unit: str, stock: float, speed: float, shown: list[str]) -> None:
    figure = {"unit": unit, "rival": "speed", "stock": stock, "speed": speed}
    assert [value_of(figure, side) for side in ("stock", "speed")] == shown


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
        "prefill, speed: TTFT, 8192 tokens: 1.25 of 1.28",
        "capacity, speed: prompt tokens in the pool: 1.22 of 1.30",
    ]
    verdicts = {line.verdict for part in results["scenarios"].values() for line in map(line_of, part["figures"])}
    assert verdicts == {"met", "missed", ""}


def test_the_table_says_which_figures_are_of_full_depth(results: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console(width=160, record=True, file=StringIO())
    console.print(terminal_table(results))
    text = console.export_text()
    assert any("TTFT, 1024 tokens" in line and "SPEED, Lc = L" in line for line in text.splitlines())
    assert "1.280x missed" in text
    assert "12,288 tokens" in text
    assert "11.00 s ± 9.1%" in text
    assert "TTFT, 8192 tokens: 1.25x as fast as stock SGLang, of at most 1.33x, for our-model" in text
    assert "Lc = L: this package with prompts in all layers" in text


def test_a_gain_above_its_ceiling_is_not_called_a_part_of_it() -> None:
    figure = {"figure": "TPOT", "unit": "s", "ratio": 1.26, "ceiling": 1.25}
    assert gain(figure) == "TPOT: 1.26x as fast as stock SGLang, above its ceiling of 1.25x"
    assert gain({**figure, "ceiling": None}) == "TPOT: 1.26x as fast as stock SGLang"


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


def test_the_page_has_the_sizes_and_flags_of_what_was_served(results: dict[str, Any]) -> None:
    """Neither those of the profile's own model, nor anything as JSON."""
    page = html_report(results, [])
    assert "policy speed, prompts in 3 of 4 layers, first 1 and last 16 tokens in all" in page
    assert "<td>64, 128</td>" in page
    assert "<code>A=1 --dtype bfloat16</code>" in page
    assert not {"shape", "num_layers", "prefill_layers"} & set(results["configuration"]["sizes"])
    assert str(CPU.shape.intermediate_size) not in page
    assert "{" not in page.split("</style>")[1]
    assert set(SCENARIOS) == set(QUESTIONS) == set(SCENARIO_SIZES)


def test_a_rehearsal_says_that_it_means_nothing_and_judges_nothing(tmp_path: Path) -> None:
    results = results_of(comparison_of(REHEARSAL))
    assert headline(results) == "rehearsal: sizes too small, figures mean nothing"
    judged = [figure for part in results["scenarios"].values() for figure in (part, *part["figures"])]
    assert all(figure["target"] is figure["is_met"] is None for figure in judged)
    page = html_report(results, draw(results, tmp_path / "plots"))
    assert '<p class="banner">rehearsal: sizes too small, figures mean nothing</p>' in page
    assert 'class="missed"' not in page
    assert 'class="met"' not in page
    assert "as fast as" not in page


def test_no_curve_is_cut(results: dict[str, Any]) -> None:
    for needed, _, drawer in PLOTS.values():
        page = drawer({name: one for name, one in results["series"].items() if name.startswith(needed)}, results)
        for axes in page.axes:
            highest = max(max(line.get_ydata()) for line in axes.lines)
            assert axes.get_ylim()[1] >= 1.1 * highest
            assert axes.get_ylabel()
            assert axes.get_xlabel() or axes is page.axes[0]


@pytest.mark.parametrize("name", ["ngram", "lora"])
def test_times_are_drawn_whatever_is_beside_them(name: str, tmp_path: Path) -> None:
    """What drafts gain is a count of tokens, which has no context length; a bare side has no ceiling."""
    results = json.loads((RESULTS / f"bench_cpu_{name}.json").read_text(encoding="utf-8"))
    figures = results["scenarios"]["decode"]["figures"]
    assert any(figure["unit"] == "tokens" or figure["ceiling"] is None for figure in figures)
    assert "tpot" in {path.stem for path in draw(results, tmp_path)}


@pytest.mark.parametrize(
    ("gaps", "times"),
    [((0.25, 0.5), (1.0, 1.25, 1.75)), ((0.5,), (1.0, 1.0, 1.5)), ((), (1.0, 1.0, 1.0))],
    ids=["one by one", "two at first", "all at once"],
)
def test_tokens_that_come_in_one_chunk_have_its_time(gaps: tuple[float, ...], times: tuple[float, ...]) -> None:
    assert arrivals(1.0, gaps, 3) == times
