"""Which tokens each assistant turn says, and what is wrong with chats of which that cannot be told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from sglang_speed.errors import ConfigError
from sglang_speed.lab.common.chat import (
    Chat,
    ChatFormat,
    Message,
    is_unwritten,
    read_chats,
    read_conversations,
)
from tests.tiny_models import BOS_ID, CHAT_TEMPLATE, EOS_ID, tiny_tokenizer
from tests.unit.training.chats import TEMPLATE, assistant, chat_format_of, user, write_chats
from tests.unit.training.conftest import MakeModel

MESSAGES = [
    {"role": "system", "content": "be short"},
    user("one?"),
    assistant("first"),
    user("two?"),
    assistant("second one"),
]


def said(chat_format: ChatFormat, messages: list[dict[str, str | None]]) -> list[str]:
    conversation = chat_format.conversation(Chat(messages))
    return [chat_format.tokenizer.decode(conversation.token_ids[turn.start : turn.stop]) for turn in conversation.turns]


def test_a_turn_is_its_text_and_the_stop_token(chat_format: ChatFormat) -> None:
    assert said(chat_format, MESSAGES) == ["first<eos>", "second one<eos>"]


def test_what_stands_before_a_turn_is_the_prompt_that_a_server_gets(chat_format: ChatFormat) -> None:
    conversation = chat_format.conversation(Chat(MESSAGES))
    for turn, num_before in zip(conversation.turns, (2, 4), strict=True):
        prompt = chat_format.prompt_ids(Chat(MESSAGES[:num_before]))
        assert list(conversation.token_ids[: turn.start]) == prompt
    assert conversation.token_ids[0] == BOS_ID
    assert conversation.token_ids.count(BOS_ID) == 1


def test_messages_after_the_last_answer_are_left_out(chat_format: ChatFormat) -> None:
    shorter, longer = (chat_format.conversation(Chat(chat)) for chat in (MESSAGES, [*MESSAGES, user("three?")]))
    assert shorter == longer


def test_a_turn_and_the_prompt_before_it_are_tokenized_apart() -> None:
    """A token that spans both is one that no server ever reads: the model continues the prompt's tokens."""
    plain = json.loads(tiny_tokenizer().backend_tokenizer.to_str())
    vocab = plain["model"]["vocab"] | {">h": len(plain["model"]["vocab"])}
    merging = Tokenizer.from_str(json.dumps(plain))
    merging.model = models.BPE(vocab=vocab, merges=[(">", "h")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=merging, bos_token="<bos>", eos_token="<eos>")
    chat_format = chat_format_of(TEMPLATE, tokenizer)
    conversation = chat_format.conversation(Chat([user("hm"), assistant("hi")]))
    tokens = tokenizer.convert_ids_to_tokens(conversation.token_ids)
    assert ">h" in tokens[: conversation.turns[0].start], "the tokenizer of this test merges nothing"
    assert tokens[conversation.turns[0].start - 1 :] == [">", "h", "i", "<eos>"]


def test_a_turn_ends_at_the_first_of_several_stop_tokens() -> None:
    both = TEMPLATE.replace("{{ eos_token }}", "!{{ eos_token }}")
    chat_format = chat_format_of(both)
    exclamation = chat_format.tokenizer.convert_tokens_to_ids("!")
    assert said(ChatFormat(chat_format.tokenizer, [EOS_ID, exclamation]), [user("a"), assistant("b")]) == ["b!"]
    assert said(chat_format, [user("a"), assistant("b")]) == ["b!<eos>"]


def test_all_stop_tokens_of_the_generation_config_count(make_model: MakeModel) -> None:
    directory = make_model()
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9]}), encoding="utf-8")
    assert ChatFormat.of_checkpoint(directory).stop_ids == {EOS_ID, 7, 9}


def test_tools_reach_the_template() -> None:
    chat_format = chat_format_of("{% if tools %}{{ tools | tojson }}{% endif %}" + TEMPLATE)
    tools = [{"type": "function", "function": {"name": "look_up"}}]
    chat = Chat([user("a"), assistant("b")], tools)
    conversation = chat_format.conversation(chat)
    assert "look_up" in chat_format.tokenizer.decode(conversation.token_ids[: conversation.turns[0].start])


def test_a_message_with_tool_calls_is_written() -> None:
    call = {"type": "function", "function": {"name": "look_up", "arguments": {}}}
    assert not is_unwritten({"role": "assistant", "content": None, "tool_calls": [call]})
    assert is_unwritten({"role": "assistant", "content": None})
    assert is_unwritten({"role": "assistant"})
    assert not is_unwritten(assistant(""))


@pytest.mark.parametrize(
    ("template", "messages", "problem"),
    [
        (CHAT_TEMPLATE, MESSAGES, "ends assistant turns with none of the end-of-turn tokens"),
        (
            TEMPLATE.replace("message['content']", "(message['content'] if loop.last else '...')"),
            MESSAGES,
            "rewrites earlier turns",
        ),
        ("{{ raise_exception('roles must alternate') }}", MESSAGES, "refuses these messages: roles must alternate"),
        ("{{ 'text' + messages[0]['nobody'] }}", MESSAGES, "refuses these messages"),
        (TEMPLATE, [assistant("hi")], "begins with an answer"),
        (
            TEMPLATE.replace("messages %}", "messages if message['role'] != 'tool' %}"),
            [user("a"), {"role": "tool", "content": "b"}, assistant("c")],
            "message 2: the model's chat template drops this message of role 'tool'",
        ),
        (
            TEMPLATE,
            [user("a"), {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "look"}}]}],
            "message 2: the model's chat template drops this message of role 'assistant calls'",
        ),
        (
            "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
            "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}" + TEMPLATE,
            [user("a"), assistant("b"), assistant("c")],
            "refuses these messages: roles must alternate",
        ),
    ],
)
def test_a_template_that_shows_no_turns_is_explained_with_the_chat(
    template: str, messages: list[dict[str, str | None]], problem: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^data.jsonl, line 3.*{problem}"):
        chat_format_of(template).conversation(Chat(messages, origin="data.jsonl, line 3"))


GOOD = json.dumps({"messages": [user("a"), assistant("b")]})


def line_of(*messages: object, **beside: object) -> str:
    return json.dumps({"messages": messages, **beside})


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "is not JSON"),
        ("[1]", "has no messages"),
        ('{"messages": []}', "has no messages"),
        ('{"text": "a"}', "has no messages"),
        (line_of("a"), "message 1: 'a' is not a message"),
        (line_of({"content": "a"}), "is not a message"),
        (line_of({"role": "robot", "content": "a"}), "message 1: role='robot' is not one of system, .*: write one"),
        (line_of(user("a"), {"role": ["user"], "content": "a"}), r"message 2: role=\['user'\] is not one of"),
        (line_of({"role": "user", "content": 1}), "content=1 of role 'user' is not a string"),
        (line_of({"role": "system", "content": None}), "content=None of role 'system' is not a string"),
        (line_of({"role": "user"}), "message 1: role 'user' has no content: write it"),
        (line_of(user("a"), {"role": "assistant"}), "message 2: role 'assistant' has no content: write it, or"),
        (line_of(user(" \n"), assistant("b")), "message 1: content=' .*' of role 'user' is empty"),
        (
            line_of(user("a"), assistant("")),
            "message 2: content='' of role 'assistant' is empty: write text, or remove",
        ),
        (line_of(user("a")), "has no assistant message"),
        (line_of(user("a"), assistant(None)), "has a message without content"),
        (line_of(user(None), assistant("b")), "message 1: role 'user' has no content: write the question"),
        (line_of(user("a"), assistant("b"), user(None), assistant(None)), "message 3: role 'user' has no content"),
        (line_of({"role": "system", "content": "a"}, user(None), assistant(None)), "message 2: role 'user' has no con"),
        (line_of(user("a"), {**assistant("b"), "weight": 0}), "message 2: weight=0 excludes an answer from training"),
        (line_of({"role": "user", "value": "a"}), "message 1: role 'user' has no content"),
        (line_of({"from": "robot", "value": "a"}), "message 1: from='robot' is not one of system, human"),
        (line_of({"from": [], "value": "a"}), r"message 1: from=\[\] is not one of"),
        (line_of({"from": "human"}), "message 1: content='' of role 'user' is empty"),
        (line_of(user("a"), conversations=[user("a")]), "has both messages and conversations: keep one"),
        (line_of({"role": "user", "content": [{"type": "image_url"}]}), "the content part .*image_url.* text only"),
        (line_of({**user("a"), "tool_calls": [{}]}), "role 'user' has tool_calls: only the assistant calls"),
        (line_of(user("a"), {"role": "assistant", "tool_calls": [{}]}), r"message 2: \{\} is not a tool call: write"),
        (GOOD[:-1] + ', "tools": 1}', "has tools=1, which is not a list"),
        (json.dumps({"messages": [user("a"), assistant("b" * 100)]}), r"has \d+ tokens, more than 64"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, chat_format: ChatFormat, line: str, problem: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(f"{GOOD}\n\n{line}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"data\.jsonl, line 3.*{problem}"):
        read_conversations(path, chat_format, max_tokens=64)


@pytest.mark.parametrize(
    ("content", "problem"), [(b"", "has no chats"), (b"\n \n", "has no chats"), (b"\xff{}", "UTF-8"), (None, "UTF-8")]
)
def test_a_file_that_holds_no_lines_of_text_is_named(tmp_path: Path, content: bytes | None, problem: str) -> None:
    path = tmp_path / "data.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"data\.jsonl .*{problem}"):
        list(read_chats(path))


CALL = {"type": "function", "function": {"name": "look_up", "arguments": {"at": 1}}}
OPENAI_CALL = {"type": "function", "function": {"name": "look_up", "arguments": '{"at": 1}'}}


@pytest.mark.parametrize(
    ("line", "messages"),
    [
        (
            {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "id": 3},
            [user("a"), assistant("b")],
        ),
        (
            {"conversations": [{"from": "user", "value": "a"}, {"from": "chatgpt", "value": None}], "system": "short"},
            [{"role": "system", "content": "short"}, user("a"), assistant(None)],
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]},
            [user("a b")],
        ),
        (
            {"messages": [{**user("a"), "tool_calls": None, "name": None}, {**assistant("b"), "tool_calls": []}]},
            [user("a"), assistant("b")],
        ),
        (
            {
                "messages": [
                    user("a"),
                    {"role": "assistant", "tool_calls": [OPENAI_CALL]},
                    {"role": "tool", "content": ""},
                ]
            },
            [user("a"), {**assistant(None), "tool_calls": [CALL]}, {"role": "tool", "content": ""}],
        ),
        ({"messages": [user(None), assistant(None)] * 2}, [user(None), assistant(None)] * 2),
        ({"number": 3, "messages": [user("a"), assistant("")]}, [user("a"), assistant("")]),
    ],
)  # fmt: skip
def test_other_ways_to_write_a_chat_are_read(line: dict[str, Any], messages: list[Message], tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text(json.dumps(line), encoding="utf-8")
    (chat,) = read_chats(tmp_path / "data.jsonl")
    assert chat.messages == messages


def test_line_separators_of_other_alphabets_end_no_line(tmp_path: Path) -> None:
    """JSON leaves them as they are inside strings, and `str.splitlines` would cut there."""
    path = tmp_path / "data.jsonl"
    text = "one\u2028two\u0085three"
    path.write_text(json.dumps({"messages": [user("a"), assistant(text)]}, ensure_ascii=False), encoding="utf-8")
    (chat,) = read_chats(path)
    assert chat.messages[1]["content"] == text


def test_a_chat_of_exactly_the_longest_length_is_taken(tmp_path: Path, chat_format: ChatFormat) -> None:
    path = write_chats(tmp_path / "data.jsonl", [MESSAGES])
    (conversation,) = read_conversations(path, chat_format)
    assert read_conversations(path, chat_format, max_tokens=len(conversation.token_ids)) == [conversation]


def test_a_checkpoint_without_chat_template_or_tokenizer_is_explained(make_model: MakeModel, tmp_path: Path) -> None:
    directory = make_model()
    (directory / "chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match="has no chat template"):
        ChatFormat.of_checkpoint(directory)
    with pytest.raises(ConfigError, match="has no readable tokenizer"):
        ChatFormat.of_checkpoint(tmp_path)
