"""The prompts in the recipe are those that its README says, and can be trained on as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from sglang_speed.lab.common.chat import is_unwritten, read_chats

RECIPE = Path(__file__).parents[3] / "recipes" / "speed_llama"


@pytest.mark.parametrize(("name", "num", "own_questions"), [("prompts-24", 560, 93), ("prompts-22", 600, 60)])
def test_the_data_has_as_many_prompts_as_were_drawn(name: str, num: int, own_questions: int) -> None:
    chats = [chat.messages for chat in read_chats(RECIPE / f"{name}.jsonl.gz")]
    assert len(chats) == num + own_questions
    assert [all(map(is_unwritten, messages)) for messages in chats] == [False] * num + [True] * own_questions
    assert all(is_unwritten(messages[-1]) for messages in chats)
