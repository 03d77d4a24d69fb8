"""Kept states are those of the model, row for row, for every tail up to the longest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sglang_speed.config import SpeedConfig
from sglang_speed.lab.common.chat import Chat, ChatFormat, Conversation
from sglang_speed.lab.training import states as states_module
from sglang_speed.lab.training.batches import TrainingExamples
from sglang_speed.lab.training.states import StateFolder
from sglang_speed.policies import SpeedPolicy
from sglang_speed.reference.modeling import IGNORED_LABEL
from sglang_speed.reference.training import SpeedLlamaForTraining, deep_rows
from tests.unit.training.chats import assistant, user
from tests.unit.training.models import for_training

LONGEST = 24
CHATS = [
    [user("how long is a text of more than a tail?"), assistant("longer"), user("and?"), assistant("so")],
    [user("a"), assistant("shorter than the longest tail")],
]


@pytest.fixture(scope="module")
def conversations(chat_format: ChatFormat) -> list[Conversation]:
    return [chat_format.conversation(Chat(messages)) for messages in CHATS]


@pytest.fixture(scope="module")
def model(llama: Path) -> SpeedLlamaForTraining:
    return model_from(llama, 2)


def model_from(llama: Path, entry_layer: int) -> SpeedLlamaForTraining:
    model = for_training(llama, SpeedConfig(4, 2, 3, LONGEST))
    model.entry_layer = entry_layer
    return model


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, model: SpeedLlamaForTraining, conversations: list[Conversation]
) -> StateFolder:
    folder = StateFolder(tmp_path_factory.mktemp("states"), SpeedPolicy(model.policy.config))
    assert list(folder.capture_all(model, conversations)) == [1, 2]
    return folder


def close(first: Tensor, second: Tensor) -> None:
    # the same products in another order
    torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("tail", [1, 2, 7, 23, LONGEST])
def test_every_tail_takes_the_models_own_cutoff_states(
    model: SpeedLlamaForTraining, folder: StateFolder, conversations: list[Conversation], tail: int, number: int
) -> None:
    speed = model.policy.config
    examples = TrainingExamples(conversations, [0, 1], speed, [tail], folder, entry_layer=2, distil=True)
    conversation = conversations[number]
    rows = deep_rows(SpeedPolicy(speed.with_tail(tail)), conversation.token_ids, conversation.turns)
    expected = model.entry_states(torch.tensor([conversation.token_ids]))[0, list(rows.positions)]
    assert examples[number]["positions"].tolist() == list(rows.positions)
    close(examples[number]["cutoff_states"], expected)


@torch.no_grad()
@pytest.mark.parametrize("number", [0, 1])
def test_the_teacher_is_the_model_at_full_depth_before_each_token_that_is_said(
    model: SpeedLlamaForTraining, folder: StateFolder, conversations: list[Conversation], number: int
) -> None:
    conversation = conversations[number]
    stock = for_training(Path(model.config._name_or_path), SpeedConfig(4, 4))
    last = stock.cutoff_states(stock.entry_states(torch.tensor([conversation.token_ids])))
    before = [position - 1 for turn in conversation.turns for position in turn]
    close(folder.read(number).teacher, model.model.norm(last)[0, before])
    rows = folder.rows(conversation)
    assert len(before) == sum(label != IGNORED_LABEL for label in rows.labels)


@torch.no_grad()
@pytest.mark.parametrize("entry_layer", [0, 1])
def test_below_the_cutoff_every_token_is_kept_and_of_the_first_layer_none(
    tmp_path: Path, llama: Path, conversations: list[Conversation], entry_layer: int
) -> None:
    model = model_from(llama, entry_layer)
    folder = StateFolder(tmp_path, SpeedPolicy(model.policy.config))
    list(folder.capture_all(model, conversations))
    for number, conversation in enumerate(conversations):
        expected = model.entry_states(torch.tensor([conversation.token_ids]))[0]
        close(folder.read(number).entry, expected if entry_layer else expected[:0])


def test_a_prompt_shorter_than_the_longest_tail_is_kept_whole_and_once(
    folder: StateFolder, conversations: list[Conversation]
) -> None:
    short = conversations[1]
    assert short.turns[0].start < LONGEST, "the prompt of this test is not short"
    assert folder.rows(short).positions == tuple(range(short.turns[0].stop - 1))


def test_a_capture_that_was_cut_goes_on_with_what_is_missing(
    tmp_path: Path,
    model: SpeedLlamaForTraining,
    folder: StateFolder,
    conversations: list[Conversation],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun = StateFolder(tmp_path, folder.policy)
    steps: Iterator[int] = begun.capture_all(model, conversations)
    assert next(steps) == 1
    (tmp_path / ".000001.safetensors.new").write_bytes(b"half")
    captured: list[Conversation] = []
    capture = states_module.capture
    monkeypatch.setattr(states_module, "capture", lambda *args: [captured.append(args[1]), capture(*args)][1])
    assert list(begun.capture_all(model, conversations)) == [1, 2]
    assert captured == [conversations[1]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000.safetensors", "000001.safetensors"]
    for number in (0, 1):
        close(begun.read(number).entry, folder.read(number).entry)


def test_states_are_kept_in_the_models_dtype(
    tmp_path: Path, model: SpeedLlamaForTraining, conversations: list[Conversation], llama: Path
) -> None:
    halves = for_training(llama, model.policy.config).to(torch.bfloat16)
    folder = StateFolder(tmp_path, SpeedPolicy(model.policy.config))
    list(folder.capture_all(halves, conversations[:1]))
    kept = folder.read(0)
    assert kept.entry.dtype == kept.teacher.dtype == torch.bfloat16
