"""Items are made from a seed alone, and right answers are told from wrong ones."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_speed.errors import ConfigError
from sglang_speed.lab.evaluation.prompts import KINDS, chats
from sglang_speed.lab.evaluation.tasks import TASKS, Item, Task
from sglang_speed.lab.evaluation.tasks.catalogue import CATALOGUE
from sglang_speed.lab.evaluation.tasks.long import Long
from sglang_speed.lab.evaluation.tasks.needle import DEPTHS, Needle, told_code
from sglang_speed.lab.evaluation.tasks.recall import NUM_FACTS
from sglang_speed.lab.evaluation.tasks.rules import RULES, num_sentences
from sglang_speed.lab.evaluation.tasks.tools import fits, named_tool, parse_call

NUM_ITEMS = 48
ALL = [task() for task in TASKS.values()]


def perfect(task: Task, item: Item) -> list[str]:
    """The answers of a model that does everything right."""
    wanted = item.wanted
    match task.name:
        case "needle" | "long":
            return [f"It is {wanted.get('code', wanted.get('word'))}."]
        case "tools":
            return [json.dumps({"name": wanted["name"], "arguments": wanted["arguments"]})]
        case "instructions":
            rule = RULES[wanted["rule"]]
            return [rule.example.replace("cup of tea", "pot of tea").replace("CUP", "POT").format(word=wanted["word"])]
        case _:
            return ["Well."] * (len(item.turns) - NUM_FACTS) + [f"It is {word}." for word in wanted["words"]]


@pytest.mark.parametrize("task", ALL, ids=lambda task: task.name)
def test_items_depend_on_the_seed_alone(task: Task) -> None:
    few, many = task.items(1, NUM_ITEMS // 2), task.items(1, NUM_ITEMS)
    assert many[: len(few)] == few
    assert len({item.turns for item in many}) > len(many) // 2
    assert task.items(2, NUM_ITEMS) != many


@pytest.mark.parametrize("task", ALL, ids=lambda task: task.name)
def test_no_item_of_thousands_comes_again_among_independent_ones(task: Task) -> None:
    """Errors would be too small otherwise."""
    asked = [repr((item.opening, item.turns)) for item in task.items(0, 2400)]
    groups = [frozenset(asked[first : first + task.drawn_together]) for first in range(0, 2400, task.drawn_together)]
    assert sum(map(len, groups)) == len(frozenset().union(*groups))


@pytest.mark.parametrize("task", ALL, ids=lambda task: task.name)
def test_right_answers_are_right_and_silence_is_not(task: Task) -> None:
    for item in task.items(0, NUM_ITEMS):
        best = {metric: float(metric not in task.faults) for metric in task.metrics}
        assert task.grade(item, perfect(task, item)) == best
        silent = task.grade(item, [""] * len(item.turns))
        assert silent == dict.fromkeys(task.metrics, 0.0)


@pytest.mark.parametrize("task", ALL, ids=lambda task: task.name)
def test_the_answers_to_one_item_are_wrong_for_another(task: Task) -> None:
    items = task.items(0, NUM_ITEMS)
    moved = [task.grade(item, perfect(task, other)) for item, other in zip(items, items[7:], strict=False)]
    assert sum(grade[task.metrics[0]] for grade in moved) < len(moved) / 2


@given(st.text())
def test_no_answer_breaks_a_grade(answer: str) -> None:
    for task in ALL:
        (item,) = task.items(3, 1)
        grade = task.grade(item, [answer] * len(item.turns))
        assert set(grade) == set(task.metrics)
        assert all(0 <= value <= 1 for value in grade.values())


@pytest.mark.parametrize("task", [Needle(), Long()], ids=lambda task: task.name)
def test_neighbours_ask_one_text_for_all_that_it_tells(task: Task) -> None:
    size = task.drawn_together
    asked = [tuple(item.turns[0].rsplit("\n\n", 1)) for item in task.items(0, 3 * size)]
    assert len({text for text, _ in asked}) == 3
    for first in range(0, len(asked), size):
        texts, questions = zip(*asked[first : first + size], strict=True)
        assert (len(set(texts)), len(set(questions))) == (1, size)


def test_a_needle_stands_at_its_depth_once() -> None:
    for item in Needle([200]).items(0, 10):
        (text,) = item.turns
        place = text.rsplit("secret code of ", 1)[1].split("?")[0]
        found = told_code(place, item.wanted["code"])
        assert text.count(found) == 1
        haystack = text.rsplit("\n\n", 1)[0]
        assert text.index(found) / (len(haystack) - len(found)) == pytest.approx(item.group["depth"], abs=0.1)


def test_every_length_is_asked_at_every_depth() -> None:
    cells = [tuple(item.group.values()) for item in Needle([100, 200]).items(0, 4 * len(DEPTHS))]
    assert sorted(cells) == sorted([(length, depth) for length in (100, 200) for depth in DEPTHS] * 2)


def test_a_text_too_short_to_search_in_is_refused() -> None:
    with pytest.raises(ConfigError, match="--length 10 is below 50 words"):
        Needle([300, 10])


def test_the_code_of_another_place_is_not_found() -> None:
    (item,) = Needle().items(0, 1)
    wrong = str(int(item.wanted["code"]) + 1)
    assert Needle().grade(item, [f"{wrong}, not {item.wanted['code']}"]) == {"found": 0.0}


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.name)
def test_a_rule_is_kept_by_its_example_and_broken_by_some_answer(rule: Any) -> None:
    for word in rule.words:
        assert rule.check(rule.example.format(word=word), word)
        broken = "Well, A first sentence, with commas. A second one, and more, and more than ten words."
        assert not rule.check(broken, word)


def test_a_copy_of_the_example_follows_no_rule() -> None:
    task = TASKS["instructions"]()
    for item in task.items(0, len(RULES)):
        copied = RULES[item.wanted["rule"]].example.format(word=item.wanted["word"])
        same = (copied.rstrip("."), f"{copied}.", copied.upper(), copied.lower(), f" {copied}\n", f"'{copied}'")
        for almost in (copied, *same, f"- {copied}", f"_{copied}_", f"{copied} {copied}"):
            assert task.grade(item, [almost]) == {"followed": 0.0}


@pytest.mark.parametrize(
    "answer", ["x", "tea", "A CUP", "and a and a and a and a", "[[tea]] tea", "- tea\n- coffee", "' - x"]
)
def test_a_word_or_two_follow_no_rule(answer: str) -> None:
    task = TASKS["instructions"]()
    assert not any(task.grade(item, [answer])["followed"] for item in task.items(0, len(RULES)))


def test_sentences_are_counted_by_their_ends() -> None:
    assert [num_sentences(text) for text in ("", "One", "One. Two!", "Is 3.5 more? Yes.")] == [0, 1, 2, 2]


@pytest.mark.parametrize("around", ["{}", "```json\n{}\n```", "<tool_call>\n{}\n</tool_call>", " {}\n"])
def test_a_call_may_stand_in_a_fence_or_tags(around: str) -> None:
    call = {"name": "lock_door", "arguments": {"door": "back"}}
    assert parse_call(around.replace("{}", json.dumps(call))) == call


@pytest.mark.parametrize(
    "answer",
    ["", "lock the door", '{"name": "lock_door"', '{"name": "lock_door"}', '["lock_door"]', '{"a": 1, "b": 2}'],
)
def test_what_is_not_a_call_is_none(answer: str) -> None:
    assert parse_call(answer) is None


def test_an_invented_tool_counts_even_in_broken_json() -> None:
    task = TASKS["tools"]()
    (item,) = task.items(0, 1)
    assert named_tool('{"name": "fly_to_moon", "arguments": {') == "fly_to_moon"
    graded = task.grade(item, ['{"name": "fly_to_moon", "arguments": {'])
    assert graded == {"valid": 0.0, "right_tool": 0.0, "right_arguments": 0.0, "invented": 1.0}


def test_a_valid_call_has_arguments_of_the_schemas_types() -> None:
    task = TASKS["tools"]()
    item = next(
        item for item in task.items(0, 99) if any(isinstance(v, int) for v in item.wanted["arguments"].values())
    )
    right = item.wanted["arguments"]
    as_text = {key: str(value) for key, value in right.items()}
    graded = task.grade(item, [json.dumps({"name": item.wanted["name"], "arguments": as_text})])
    assert (graded["valid"], graded["right_tool"], graded["right_arguments"]) == (0.0, 1.0, 0.0)


def test_the_arguments_of_every_request_fit_its_schema() -> None:
    from random import Random

    for tool in CATALOGUE:
        request, arguments = tool.draw(Random(0))
        assert fits(arguments, tool.schema)
        assert not fits({}, tool.schema)
        assert all(str(value) in request for value in arguments.values())


def test_chats_are_of_all_kinds_and_the_first_do_not_depend_on_the_rest() -> None:
    few, many = chats(0, 6), chats(0, 30)
    assert many[:6] == few
    assert {kind for kind, _ in few} == set(KINDS)
    assert all(messages[-1]["role"] == "user" for _, messages in many)
