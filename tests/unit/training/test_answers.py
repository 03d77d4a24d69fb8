"""What the model is asked to write, what is kept of it, and how answering goes on after a cut."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from sglang_speed.errors import ConfigError
from sglang_speed.lab.common.chat import Chat, ChatFormat, Message, read_conversations
from sglang_speed.lab.common.client import Client
from sglang_speed.lab.training.answers import Sampling, answer_all, fill, is_open, read_answered
from tests.tiny_models import EOS_ID
from tests.unit.training.chats import TEMPLATE, assistant, chat_format_of, user
from tests.unit.training.stub_server import StubServer, stub_server

SAMPLING = Sampling(temperature=0.5, max_tokens=7, concurrency=2)
CHATS = [Chat([user(f"question {number}?")], origin=f"line {number}") for number in range(12)]


def echo(prompt: str, number: int) -> str:
    """An answer that depends on the whole prompt."""
    return f" {sum(prompt.encode())} of {len(prompt)}\n"


def answer(chats: Sequence[Chat], path: Path, server: StubServer, chat_format: ChatFormat) -> list[int]:
    return list(answer_all(chats, path, server.url, chat_format, SAMPLING))


def contents(path: Path, num_chats: int) -> set[tuple[str, ...]]:
    return {tuple(message["content"] for message in chat.messages) for chat in read_answered(path, num_chats)}


def test_open_messages_are_written_in_order_and_given_ones_are_kept(chat_format: ChatFormat) -> None:
    messages = [user("a"), assistant(None), user("b"), assistant("given"), user(None), assistant(None), user("c")]
    with stub_server(lambda prompt, number: f" said {number} ") as server:
        written = fill(Chat(messages), Client(server.url), chat_format, SAMPLING)
    assert [message["content"] for message in written.messages] == [
        *("a", "said 1", "b", "given", "said 2", "said 3", "c", "said 4")
    ]
    assert [message["role"] for message in written.messages] == ["user", "assistant"] * 4
    assert server.prompts == [
        "<bos><user>a<eos>\n<assistant>",
        "<bos><user>a<eos>\n<assistant>said 1<eos>\n<user>b<eos>\n<assistant>given<eos>\n<user>",
        f"{server.prompts[1]}said 2<eos>\n<assistant>",
        f"{server.prompts[2]}said 3<eos>\n<user>c<eos>\n<assistant>",
    ]


def test_answers_are_sampled_as_asked(chat_format: ChatFormat) -> None:
    with stub_server(echo) as server:
        fill(CHATS[0], Client(server.url), chat_format, SAMPLING)
    asked = {"temperature": 0.5, "max_new_tokens": 7, "stop_token_ids": [EOS_ID]}
    assert server.requests[0]["sampling_params"] == asked


def test_tools_stay_with_their_chat_and_stand_in_its_prompt(tmp_path: Path) -> None:
    chat_format = chat_format_of("{% if tools %}{{ tools | tojson }}{% endif %}" + TEMPLATE)
    chat = Chat([user("a")], [{"type": "function", "function": {"name": "look_up"}}])
    with stub_server(echo) as server:
        answer([chat], tmp_path / "answered.jsonl", server, chat_format)
    (written,) = read_answered(tmp_path / "answered.jsonl", 1)
    assert written.tools == chat.tools
    assert "look_up" in server.prompts[0]


def test_text_of_any_kind_comes_back_from_the_file(tmp_path: Path, chat_format: ChatFormat) -> None:
    text = 'a\nb\r\u2028c\u0085d\x0ce"\\é中😀'
    with stub_server(lambda prompt, number: text) as server:
        answer(CHATS[:2], tmp_path / "answered.jsonl", server, chat_format)
        assert answer(CHATS[:2], tmp_path / "answered.jsonl", server, chat_format) == [2]
    assert {said for _, said in contents(tmp_path / "answered.jsonl", 2)} == {text}
    assert len(read_conversations(tmp_path / "answered.jsonl", chat_format)) == 2


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([user("a")], True),
        ([user("a"), assistant(None)], True),
        ([user(None), assistant("b")], True),
        ([user("a"), {"role": "assistant"}], True),
        ([user("a"), assistant("b")], False),
        ([user("a"), assistant("")], False),
        ([user("a"), {"role": "assistant", "content": None, "tool_calls": [{}]}], False),
    ],
)
def test_a_chat_is_open_where_the_model_has_to_write(messages: list[Message], expected: bool) -> None:
    assert is_open(Chat(messages)) is expected


def test_after_a_refusal_only_what_is_missing_is_asked_for(tmp_path: Path, chat_format: ChatFormat) -> None:
    path = tmp_path / "answered.jsonl"
    with stub_server(lambda prompt, number: None if number == 6 else echo(prompt, number)) as server:
        with pytest.raises(ConfigError, match=r"^line \d+: the server refused .*too long.*: shorten or remove"):
            answer(CHATS, path, server, chat_format)
        kept = set(path.read_text(encoding="utf-8").splitlines())
        assert 0 < len(kept) < len(CHATS)
        with pytest.raises(ConfigError, match=f"has {len(kept)} of 12 answered chats"):
            read_answered(path, len(CHATS))
    with stub_server(echo) as server:
        assert answer(CHATS, path, server, chat_format) == list(range(len(kept), 13))
        assert len(server.prompts) == len(CHATS) - len(kept)
        assert kept < set(path.read_text(encoding="utf-8").splitlines())
    assert {question for question, _ in contents(path, 12)} == {f"question {number}?" for number in range(12)}


def test_a_line_that_a_killed_run_left_half_written_is_written_again(tmp_path: Path, chat_format: ChatFormat) -> None:
    path = tmp_path / "answered.jsonl"
    with stub_server(echo) as server:
        answer(CHATS, path, server, chat_format)
        whole = contents(path, 12)
        lines = path.read_bytes().splitlines(keepends=True)
        random.Random(0).shuffle(lines)
        path.write_bytes(b"".join(lines[:8]) + lines[8][: len(lines[8]) // 2])
        assert answer(CHATS, path, server, chat_format) == [8, 9, 10, 11, 12]
        assert len(server.prompts) == 12 + 4
    assert contents(path, 12) == whole


def test_chats_with_the_same_text_are_answered_one_by_one(tmp_path: Path, chat_format: ChatFormat) -> None:
    path = tmp_path / "answered.jsonl"
    with stub_server(lambda prompt, number: str(number)) as server:
        answer([CHATS[0]] * 3, path, server, chat_format)
    assert sorted(chat.messages[1]["content"] for chat in read_answered(path, 3)) == ["1", "2", "3"]


def test_nothing_is_asked_when_all_is_there(tmp_path: Path, chat_format: ChatFormat) -> None:
    with stub_server(echo) as server:
        answer(CHATS, tmp_path / "answered.jsonl", server, chat_format)
    nobody = StubServer("http://127.0.0.1:1")
    assert answer(CHATS, tmp_path / "answered.jsonl", nobody, chat_format) == [12]


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "localhost:1", "no url"])
def test_an_address_where_no_server_is_is_said(tmp_path: Path, chat_format: ChatFormat, url: str) -> None:
    with pytest.raises(ConfigError, match=f"^{url} does not answer"):
        answer(CHATS, tmp_path / "answered.jsonl", StubServer(url), chat_format)


def test_a_run_that_was_killed_before_it_put_them_in_order_does_so_when_it_goes_on(
    tmp_path: Path, chat_format: ChatFormat
) -> None:
    path = tmp_path / "answered.jsonl"
    with stub_server(echo) as server:
        answer(CHATS, path, server, chat_format)
    in_order = path.read_bytes()
    path.write_bytes(b"".join(reversed(in_order.splitlines(keepends=True))))
    answer(CHATS, path, StubServer("http://127.0.0.1:1"), chat_format)
    assert path.read_bytes() == in_order


def test_a_template_in_which_no_question_can_be_written_is_explained(chat_format: ChatFormat) -> None:
    changing = chat_format_of(TEMPLATE.replace("message['content']", "message['content'] | upper"))
    with pytest.raises(ConfigError, match=r"^line 5: the chat template changes the text of messages"):
        fill(Chat([user(None)], origin="line 5"), Client("http://127.0.0.1:1"), changing, SAMPLING)


def test_chats_come_in_the_order_of_the_data_however_long_each_answer_took(
    tmp_path: Path, chat_format: ChatFormat
) -> None:
    def slow_at_first(prompt: str, number: int) -> str:
        time.sleep(0.2 / number)
        return str(number)

    with stub_server(slow_at_first) as server:
        answer(CHATS, tmp_path / "answered.jsonl", server, chat_format)
    questions = [chat.messages[0] for chat in read_answered(tmp_path / "answered.jsonl", len(CHATS))]
    assert questions == [chat.messages[0] for chat in CHATS]
