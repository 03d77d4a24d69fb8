"""What `--data` may name: text, compressed text, and data sets."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import datasets
import pytest

from sglang_speed.errors import ConfigError
from sglang_speed.lab.common.chat import read_chats
from sglang_speed.lab.common.data import chats_file
from tests.unit.training.chats import assistant, user, write_chats

CHAT = [user("a\u2028b"), assistant("ä")]
NAME = "owner/some_chats"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "sglang-speed" / "datasets"


def on_the_hub(monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, Any]]) -> None:
    """The data set NAME; others do not exist."""

    def load(name: str, split: str) -> datasets.Dataset:
        if (name, split) != (NAME, "train"):
            raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{name}' doesn't exist\non the Hub")
        return datasets.Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", load)


def test_a_compressed_file_is_read_by_what_is_in_it(tmp_path: Path) -> None:
    plain = write_chats(tmp_path / "plain", [CHAT])
    packed = tmp_path / "packed"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert [one.messages for one in read_chats(packed)] == [CHAT]
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(ConfigError, match=r"packed cannot be read as UTF-8 text .*: give a JSONL file"):
        list(read_chats(packed))


def test_text_is_not_copied(tmp_path: Path, cache: Path) -> None:
    path = write_chats(tmp_path / "chats", [CHAT])
    for data in (str(path), "missing.jsonl", "no/such.jsonl", "no/such.jsonl.gz", "missing", "a/b/c"):
        assert chats_file(data) == Path(data)
    assert not cache.exists()


def test_a_data_set_on_the_hub_becomes_lines(
    monkeypatch: pytest.MonkeyPatch, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    on_the_hub(monkeypatch, [{"messages": CHAT, "prompt_id": 1}, {"messages": [user("open"), assistant(None)]}])
    path = chats_file(NAME)
    assert path.parent == cache
    assert path.name.startswith("owner--some_chats-")
    assert capsys.readouterr().err == f"sglang-speed: {NAME}: 2 rows, read from {path}\n"
    assert [one.messages for one in read_chats(path)] == [CHAT, [user("open"), assistant(None)]]
    assert chats_file(NAME) == path
    on_the_hub(monkeypatch, [{"messages": CHAT}])
    assert chats_file(NAME) != path


def test_conversations_of_a_parquet_file_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    said = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    datasets.Dataset.from_list([{"conversations": said}]).to_parquet(tmp_path / "x.parquet")
    (chat,) = read_chats(chats_file(str(tmp_path / "x.parquet")))
    assert chat.messages == [user("a"), assistant("b")]


def test_what_a_table_fills_in_is_no_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    def call(**arguments: int) -> list[dict[str, Any]]:
        called = {"type": "function", "function": {"name": "f", "arguments": arguments}}
        return [user("a"), {"role": "assistant", "content": "", "tool_calls": [called]}]

    tools = [[{"name": "f", "parameters": {key: {"type": "number"}}}] for key in ("x", "y")]
    chats = [call(x=1), call(y=2)]
    on_the_hub(monkeypatch, [{"messages": chat, "tools": one} for chat, one in zip(chats, tools, strict=True)])
    found = list(read_chats(chats_file(NAME)))
    assert [chat.messages for chat in found] == chats
    assert [chat.tools for chat in found] == tools


def test_a_data_set_that_cannot_be_used_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    on_the_hub(monkeypatch, [{"prompt": "a", "answer": "b"}])
    with pytest.raises(ConfigError, match=f"{NAME} has no column messages or conversations, only prompt, answer: "):
        chats_file(NAME)
    with pytest.raises(ConfigError, match=r"--data a/b cannot be loaded .*doesn't exist on the Hub\): check the name"):
        chats_file("a/b")
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "bad.parquet").write_bytes(b"no")
    with pytest.raises(ConfigError, match=r"bad\.parquet cannot be loaded as a data set \("):
        chats_file(str(tmp_path / "bad.parquet"))
    (tmp_path / "file").touch()
    on_the_hub(monkeypatch, [{"messages": CHAT}])
    with pytest.raises(ConfigError, match=r"file/sglang-speed/datasets/.* cannot be written .*set XDG_CACHE_HOME"):
        chats_file(NAME)
