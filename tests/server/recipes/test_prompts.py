"""What the offline prompts promise: repeatable, different, valid, bounded, and facts at every depth."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import pytest

import recipes.speed_llama.prompts
import sglang_speed.lab.evaluation
from recipes.speed_llama.prompts import KINDS, Messages, chats, generate_prompts, labelled_prompts, write_chats
from recipes.speed_llama.prompts.draw import Draw
from recipes.speed_llama.prompts.facts import passage
from recipes.speed_llama.prompts.reading import follow_ups
from recipes.speed_llama.prompts.searching import hidden, hide
from recipes.speed_llama.prompts.subjects import SUBJECTS
from recipes.speed_llama.prompts.tools import FUNCTIONS
from sglang_speed.lab.common.chat import read_chats
from sglang_speed.lab.evaluation.tasks.catalogue import CATALOGUE

NUM = 2000
EVALUATION = Path(sglang_speed.lab.evaluation.__file__).parent
MAX_CHARS = 14_000


@pytest.fixture(scope="module")
def labelled() -> list[tuple[str, Messages]]:
    return list(labelled_prompts(NUM, seed=5))


def num_chars(messages: Messages) -> int:
    return sum(len(message["content"] or "") for message in messages)


def test_a_seed_gives_the_same_prompts_for_every_number_and_lazily() -> None:
    assert list(islice(generate_prompts(10**9, seed=3), 60)) == list(generate_prompts(60, seed=3))


def test_seeds_share_no_prompt() -> None:
    first, second = ({json.dumps(prompt) for prompt in generate_prompts(300, seed)} for seed in (1, 2))
    assert not first & second


def test_another_process_gives_the_same_prompts_without_torch_and_sglang() -> None:
    program = (
        "import json, sys; from recipes.speed_llama.prompts import generate_prompts as g;"
        "print(json.dumps(list(g(40, 9)))); assert not {'torch', 'sglang', 'transformers'} & set(sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == list(generate_prompts(40, 9))


def constants(files: Iterable[Path]) -> set[str]:
    """All strings in the code, in lower case, with every slot named alike; docstrings are among them."""
    nodes = (node for file in files for node in ast.walk(ast.parse(file.read_text("utf-8"))))
    strings = (node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return {re.sub(r"\{\w*\}", "{}", text.strip().casefold()) for text in strings}


def test_nothing_that_evaluation_says_or_offers_is_trained_on() -> None:
    assert not {tool.name for tool in CATALOGUE} & {function.name for function in FUNCTIONS}
    judged = constants((*EVALUATION.glob("tasks/*.py"), EVALUATION / "prompts.py"))
    phrases = {part.strip() for text in judged for part in text.split(";") if " " in part.strip()}
    assert {"buy a train ticket", "thank you, i will remember that.", "the end."} <= phrases
    trained = constants(Path(recipes.speed_llama.prompts.__file__).parent.glob("*.py"))
    assert not phrases & trained
    text = "\n".join(trained)
    assert not [phrase for phrase in phrases if phrase.count(" ") >= 3 and phrase in text]


def test_every_kind_has_its_share(labelled: list[tuple[str, Messages]]) -> None:
    counts = Counter(kind for kind, _ in labelled)
    assert sum(kind.percent for kind in KINDS) == 100
    for kind in KINDS:
        expected = NUM * kind.percent / 100
        assert abs(counts[kind.name] - expected) < 4 * expected**0.5, (kind.name, counts[kind.name], expected)


def test_messages_are_chats_that_end_with_a_turn_to_be_answered(labelled: list[tuple[str, Messages]]) -> None:
    for _, messages in labelled:
        turns = messages[1:] if messages[0]["role"] == "system" else messages
        assert [turn["role"] for turn in turns] == ["user", "assistant"] * (len(turns) // 2)
        assert messages[-1] == {"role": "assistant", "content": None}
        for message in messages:
            assert set(message) == {"role", "content"}
            content = message["content"]
            assert message["role"] == "assistant" if content is None else content == content.strip() != ""


def test_no_template_is_left_unfilled(labelled: list[tuple[str, Messages]]) -> None:
    slots = {"{name}", "{first}", "{town}", "{text}", "{question}", "{field}", "{key}", "a(n)", "{code_noun}", "{json}"}
    for _, messages in labelled:
        written = "".join(message["content"] or "" for message in messages)
        assert not [slot for slot in slots if slot in written], written


def test_no_prompt_comes_twice(labelled: list[tuple[str, Messages]]) -> None:
    assert len({json.dumps(messages) for _, messages in labelled}) == NUM


def test_prompts_are_mostly_short_with_a_bounded_tail(labelled: list[tuple[str, Messages]]) -> None:
    lengths = sorted(num_chars(messages) for _, messages in labelled)
    assert 400 < lengths[NUM // 2] < 1200
    assert lengths[NUM * 95 // 100] > 2500
    assert lengths[-1] < MAX_CHARS


def assert_even(places: list[float]) -> None:
    """As many in each fifth of the text, within five standard deviations."""
    fifths = Counter(min(4, int(5 * place)) for place in places)
    expected = len(places) / 5
    assert all(abs(fifths[fifth] - expected) < 5 * (0.8 * expected) ** 0.5 for fifth in range(5)), fifths


def test_a_hidden_sentence_stands_anywhere_in_the_text() -> None:
    draw = Draw(1)
    places = []
    for _ in range(1500):
        blocks = ["x" * draw.num(20, 400) for _ in range(40)]
        hide(draw, blocks, "!")
        places.append("".join(blocks).index("!") / sum(map(len, blocks)))
    assert_even(places)


def test_questions_about_a_passage_ask_for_all_its_places() -> None:
    draw = Draw(2)
    places = []
    for _ in range(700):
        read = passage(draw, 2500)
        text = read.text()
        (fact,) = read.ask(draw)
        places.append((text.index(fact.sentence) + len(fact.sentence) / 2) / len(text))
    assert_even(places)


def test_a_hidden_sentence_answers_its_question() -> None:
    draw = Draw(3)
    for _ in range(300):
        sentence, question = hidden(draw)
        assert "{" not in sentence + question
        told, asked = (set(re.findall(r"\w+", text.lower())) for text in (sentence, question))
        assert len(told & asked) >= 2, (sentence, question)


def test_every_fact_can_be_told_and_asked_for() -> None:
    draw = Draw(4)
    for subject in SUBJECTS:
        facts = [fact for _ in range(20) for group in passage(draw, 900, subject).paragraphs for fact in group]
        asked = [fact for fact in facts if fact.question]
        assert len(asked) > len(facts) / 2
        assert all(fact.question.endswith("?") for fact in asked)


def test_a_follow_up_comes_after_a_long_answer_that_is_given() -> None:
    draw = Draw(6)
    for _ in range(200):
        *_, opening, answer, more, wanted = follow_ups(draw)
        assert [message["role"] for message in (opening, answer, more)] == ["user", "assistant", "user"]
        assert len(answer["content"] or "") > 100
        assert wanted == {"role": "assistant", "content": None}


@pytest.mark.parametrize("name", ["prompts.jsonl", "prompts.jsonl.gz"])
def test_a_file_has_one_conversation_a_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    write_chats(path, chats(25, seed=8))
    assert [chat.messages for chat in read_chats(path)] == list(generate_prompts(25, seed=8))
    before = path.read_bytes()
    write_chats(path, chats(25, seed=8))
    assert path.read_bytes() == before


def test_the_model_can_be_left_the_questions_too() -> None:
    own = list(chats(2, seed=8, own_questions=40))[2:]
    assert len(own) == 40
    assert {len(messages) for messages in own} == {2, 4, 6}
    for messages in own:
        assert messages == [{"role": role, "content": None} for role in ("user", "assistant")] * (len(messages) // 2)
