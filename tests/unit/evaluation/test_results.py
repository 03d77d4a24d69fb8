"""What is in the results file is not asked again, and what follows from it is right."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sglang_speed.config import SpeedConfig
from sglang_speed.errors import ConfigError
from sglang_speed.lab.evaluation.measure import ItemResult
from sglang_speed.lab.evaluation.plots import by_cutoff, draw
from sglang_speed.lab.evaluation.references import Reference, ReferenceFile
from sglang_speed.lab.evaluation.report import COLUMNS, cell, in_order, terminal_table
from sglang_speed.lab.evaluation.results import Results, read_results
from sglang_speed.lab.evaluation.subjects import FULL_DEPTH, Subject

FULL = Subject(FULL_DEPTH, "/models/base", None, "weights")
SUITE = {"seed": 0, "num_samples": 4, "full_depth": FULL.digest}
SPEED = Subject("trained", "/models/speed", SpeedConfig(8, 6, tail_tokens=16), "weights")
NEEDLES = [ItemResult({"found": value}, {"words": 100, "depth": depth}) for value, depth in ((1, 0), (1, 0.5), (0, 1))]
MISSED = [replace(one, values={"found": 0.0}) for one in NEEDLES]
RESPONSES = [
    ItemResult({"logprob": -10.0, "agreement": 4.0}, {"kind": "passage"}, weight=5),
    ItemResult({"logprob": -20.0, "agreement": 15.0}, {"kind": "short question"}, weight=15),
]
AT_FULL_DEPTH = {"logprob": [-9.0, -17.0], "agreement": [5.0, 15.0]}


class Asked:
    """Stands for a measurement."""

    def __init__(self, name: str, digest: str = "items", drawn_together: int = 1) -> None:
        self.name, self.digest, self.drawn_together = name, digest, drawn_together

    def __len__(self) -> int:
        return 3

    def ask(self, *_: Any) -> Any:
        raise AssertionError("nothing is asked here")


@pytest.fixture
def results(tmp_path: Path) -> Results:
    made = Results(tmp_path / "eval.json", SUITE)
    made.add(FULL, Asked("needle"), NEEDLES, {}, 1.5)
    made.add(SPEED, Asked("needle"), MISSED, made.values(FULL, "needle"), 1.5)
    made.add(SPEED, Asked("responses"), RESPONSES, AT_FULL_DEPTH, 1.5)
    return made


def test_what_was_asked_is_known_in_the_next_run(results: Results) -> None:
    again = Results(results.path, SUITE)
    assert again.data == json.loads(json.dumps(results.data))
    assert [model["source"] for model in again.models] == ["base", "speed"], "results travel, directories do not"
    assert again.has(FULL, Asked("needle"))
    assert again.has(replace(FULL, name="other", source="/elsewhere"), Asked("needle"))


@pytest.mark.parametrize(
    ("subject", "asked"),
    [
        (FULL, Asked("tools")),
        (FULL, Asked("needle", "other items")),
        (replace(FULL, weights="trained further"), Asked("needle")),
        (replace(SPEED, speed=SpeedConfig(8, 6, tail_tokens=1)), Asked("needle")),
        (replace(FULL, source="http://127.0.0.1:30000"), Asked("needle")),
    ],
    ids=["another task", "other items", "other weights", "another tail", "a running server"],
)
def test_anything_else_is_asked(results: Results, subject: Subject, asked: Asked) -> None:
    assert not Results(results.path, SUITE).has(subject, asked)


def test_a_model_asked_again_has_one_entry(results: Results) -> None:
    results.add(SPEED, Asked("needle", "other items"), NEEDLES, {}, 1.0)
    assert [model["label"] for model in results.models] == ["full depth", "trained, 6 of 8, tail 16"]
    assert results.models[1]["tasks"]["needle"]["values"] == {"found": [1, 1, 0]}


def test_results_of_another_suite_are_refused(results: Results) -> None:
    with pytest.raises(ConfigError, match=r"has results for seed 0, not 1: .* choose another --json"):
        Results(results.path, {**SUITE, "seed": 1})


@pytest.mark.parametrize("text", ["", "[]", '{"scenarios": {}}'])
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bench.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"bench.json is not a results file of eval"):
        read_results(path)


def test_losses_are_paired_with_full_depth(results: Results) -> None:
    full, speed = (model["tasks"]["needle"]["estimates"]["found"] for model in results.models)
    assert full == {"num": 3, "value": 0.666667, "stderr": 0.333333}
    assert speed["difference"] == -0.666667
    assert speed["difference_stderr"] == pytest.approx(1 / 3, abs=1e-6)


def test_losses_follow_full_depth_when_it_is_asked_again(results: Results) -> None:
    """A running server is asked every time, and may have changed; responses have their own baseline."""
    before = json.loads(json.dumps(results.models[1]["tasks"]["responses"]))
    results.add(FULL, Asked("needle"), MISSED, {}, 1.0)
    assert results.models[1]["tasks"]["needle"]["estimates"]["found"]["difference"] == 0
    assert results.models[1]["tasks"]["responses"] == before
    results.add(FULL, Asked("needle", "other items"), NEEDLES, {}, 1.0)
    assert results.models[1]["tasks"]["needle"]["estimates"]["found"]["difference"] == 0, "of the items before"


def test_items_that_share_a_part_are_no_independent_ones(results: Results) -> None:
    results.add(FULL, Asked("tools", drawn_together=2), NEEDLES, {}, 1.0)
    assert results.models[0]["tasks"]["tools"]["estimates"]["found"]["stderr"] == pytest.approx(4 / 9, abs=1e-6)


def test_perplexity_is_per_token_and_its_ratio_is_that_to_full_depth(results: Results) -> None:
    estimates = results.models[1]["tasks"]["responses"]["estimates"]
    assert estimates["perplexity"]["value"] == pytest.approx(math.exp(30 / 20), abs=1e-5)
    assert estimates["perplexity"]["ratio"] == pytest.approx(math.exp(4 / 20), abs=1e-5)
    assert estimates["perplexity"]["kl"] == pytest.approx(4 / 20)
    assert estimates["agreement"]["value"] == 19 / 20
    # two responses, 1 and 3 below: 1 - 0.2 * 5 = 0 and 3 - 0.2 * 15 = 0
    assert estimates["perplexity"]["kl_stderr"] == 0


def test_groups_are_means_of_their_items(results: Results) -> None:
    groups = results.models[0]["tasks"]["needle"]["groups"]
    assert groups[0] == {"words": 100, "depth": 0, "num": 1, "found": 1.0}
    assert [group["found"] for group in groups] == [1.0, 1.0, 0.0]
    kinds = results.models[1]["tasks"]["responses"]["groups"]
    assert [(kind["kind"], kind["logprob"]) for kind in kinds] == [("passage", -2.0), ("short question", -1.333333)]


def test_the_table_says_what_is_within_the_target(results: Results) -> None:
    by_heading = {column.heading: cell(results.models[1], column) for column in COLUMNS}
    assert by_heading["needle"] == "0.0%\n[red]-66.7 ±33.3[/]"
    assert by_heading["perplexity"] == "4.482\n[red]x1.221 ±0.000[/]"
    assert by_heading["agreement"].startswith("95.0%")
    assert by_heading["recall"] == ""
    table = terminal_table(results.data)
    assert [column.header for column in table.columns] == ["model", "perplexity", "agreement", "needle"]
    assert table.row_count == 2


def test_a_fault_is_a_loss_where_it_grows() -> None:
    column = next(column for column in COLUMNS if column.faults)
    estimate = {"value": 0.3, "stderr": 0.1, "difference": 0.1, "difference_stderr": 0.1}
    model = {"tasks": {column.task: {"estimates": {column.metric: estimate}}}}
    assert "[red]+10.0" in cell(model, column)
    estimate["difference"] = -0.1
    assert "[green]-10.0" in cell(model, column)


def test_pictures_are_drawn_from_the_file(results: Results, tmp_path: Path) -> None:
    assert results.path is not None
    drawn = draw(read_results(results.path), tmp_path / "plots")
    assert [path.name for path in drawn] == ["quality.png", "needle.png"]


def test_models_stand_in_the_order_of_their_depth_however_they_were_asked(results: Results) -> None:
    for name, layers, tail in (("untrained", 6, 1), ("trained", 7, 64), ("trained", 7, 1)):
        results.add(
            replace(SPEED, name=name, speed=SpeedConfig(8, layers, tail_tokens=tail)), Asked("needle"), MISSED, {}, 1
        )
    labels = [model["label"] for model in in_order(results.data)]
    assert labels == [
        *("full depth", "trained, 7 of 8, tail 1", "trained, 7 of 8, tail 64"),
        *("trained, 6 of 8, tail 16", "untrained, 6 of 8, tail 1"),
    ]


def test_a_series_has_one_colour_in_every_panel(results: Results) -> None:
    """Also where a panel lacks the series before it."""
    results.add(replace(SPEED, name="untrained", weights="others"), Asked("needle"), MISSED, {}, 1)
    results.add(
        replace(SPEED, name="a first one", speed=SpeedConfig(8, 5)), Asked("responses"), RESPONSES, AT_FULL_DEPTH, 1
    )
    pop = SpeedConfig.of_policy(8, 6, "pop")
    results.add(replace(SPEED, name="untrained", speed=pop), Asked("needle"), MISSED, {}, 1)
    results.add(replace(FULL, name="pruned, 5 of 8", weights="fewer"), Asked("needle"), MISSED, {}, 1)
    page = by_cutoff(results.data)
    assert page is not None
    colours: dict[str, set[str]] = {}
    for axes in page.axes:
        for bars in axes.containers:
            colours.setdefault(str(bars.get_label()), set()).add(str(bars[0].get_color()))
    assert sorted(colours) == [
        *("a first one, tail 16", "pruned", "trained, tail 16", "untrained, pop, tail 1", "untrained, tail 16"),
    ]
    assert all(len(used) == 1 for used in colours.values()), colours
    assert len(set.union(*colours.values())) == len(colours)
    (legend,) = page.legends
    assert {text.get_text() for text in legend.get_texts()} == {*colours, "full depth"}


REFERENCES = [Reference("passage", (1, 2, 3), (4, 5), (-0.5, -1.25), (4, 6))]
MADE_FOR = {"model": "m", "tokenizer": "t", "prompts": "p"}


def test_references_are_read_as_they_were_written(tmp_path: Path) -> None:
    file = ReferenceFile(tmp_path / "references.json")
    assert file.read(MADE_FOR) is None
    file.write(MADE_FOR, REFERENCES)
    assert file.read(MADE_FOR) == REFERENCES
    assert file.read({**MADE_FOR, "prompts": "others"}) is None


@pytest.mark.parametrize("key", ["model", "tokenizer"])
def test_references_of_another_vocabulary_or_model_are_refused(tmp_path: Path, key: str) -> None:
    file = ReferenceFile(tmp_path / "references.json")
    file.write(MADE_FOR, REFERENCES)
    with pytest.raises(ConfigError, match=rf"has responses of another {key} .* remove the file"):
        file.read({**MADE_FOR, key: "other"})


def test_a_broken_file_of_references_is_refused(tmp_path: Path) -> None:
    file = ReferenceFile(tmp_path / "references.json")
    file.path.write_text('{"references": [{}]}', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"references.json is not a file of references"):
        file.read(MADE_FOR)
