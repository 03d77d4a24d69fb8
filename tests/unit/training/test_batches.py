"""A batch is the sum of its conversations, however many there are of them in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from sglang_speed.config import SpeedConfig
from sglang_speed.lab.common.chat import Chat, ChatFormat, Conversation
from sglang_speed.lab.training.batches import TrainingExamples, join
from sglang_speed.lab.training.states import StateFolder
from sglang_speed.policies import SpeedPolicy
from sglang_speed.reference import training
from sglang_speed.reference.modeling import IGNORED_LABEL
from sglang_speed.reference.training import SpeedLlamaForTraining
from tests.unit.training.chats import assistant, user
from tests.unit.training.models import for_training

SPEED = SpeedConfig(4, 2, 1, 3)
TAILS = (3, 1, 9)
CHATS = [
    [user("one?"), assistant("a first answer"), user("and?"), assistant("second")],
    [user("a longer question, so that lengths differ?"), assistant("yes")],
    [user("b"), assistant("")],
]
# sums of some dozens of values of some units, in float32 through four layers
CLOSE = {"rtol": 1e-5, "atol": 1e-4}


@pytest.fixture(scope="module")
def model(llama: Path) -> SpeedLlamaForTraining:
    return for_training(llama, SPEED)


@pytest.fixture(scope="module")
def conversations(chat_format: ChatFormat) -> list[Conversation]:
    return [chat_format.conversation(Chat(messages)) for messages in CHATS]


@dataclass(frozen=True)
class Examples:
    """The conversations with the states that enter each layer up to the cutoff."""

    model: SpeedLlamaForTraining
    folders: list[StateFolder]
    conversations: list[Conversation]

    def entering(self, layer: int, *, distil: bool = False) -> TrainingExamples:
        """Those of a run that trains from `layer` on, for which the model is set too."""
        self.model.entry_layer = layer
        return TrainingExamples(
            self.conversations, range(len(CHATS)), SPEED, TAILS, self.folders[layer], entry_layer=layer, distil=distil
        )


@pytest.fixture(scope="module")
def examples(
    tmp_path_factory: pytest.TempPathFactory, model: SpeedLlamaForTraining, conversations: list[Conversation]
) -> Examples:
    folders = []
    for model.entry_layer in range(SPEED.prefill_layers + 1):
        folders.append(StateFolder(tmp_path_factory.mktemp("states"), SpeedPolicy(SPEED.with_tail(max(TAILS)))))
        list(folders[-1].capture_all(model, conversations))
    return Examples(model, folders, conversations)


def summed_loss(model: SpeedLlamaForTraining, batch: dict[str, Any]) -> float:
    loss = model(**batch, num_items_in_batch=1).loss
    assert loss is not None
    return float(loss)


@torch.no_grad()
@pytest.mark.parametrize("distil", [True, False])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_batchs_loss_is_the_sum_of_its_conversations(
    model: SpeedLlamaForTraining, examples: Examples, layer: int, distil: bool
) -> None:
    chosen = examples.entering(layer, distil=distil)
    single = [summed_loss(model, join([chosen[number]])) for number in range(len(CHATS))]
    for order in ([0, 1, 2], [2, 0, 1], [1, 2]):
        together = summed_loss(model, join([chosen[number] for number in order]))
        torch.testing.assert_close(together, sum(single[number] for number in order), **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("distil", [True, False])
def test_kept_states_give_the_loss_of_the_whole_model(
    model: SpeedLlamaForTraining, examples: Examples, distil: bool
) -> None:
    for numbers in ([0], [1], [2], [2, 0, 1]):
        losses = []
        for layer, name in enumerate(("input_ids", "entry_states", "cutoff_states")):
            chosen = examples.entering(layer, distil=distil)
            batch = join([chosen[number] for number in numbers])
            assert {"input_ids", "entry_states", "cutoff_states"} & batch.keys() == {name}
            losses.append(summed_loss(model, batch))
        torch.testing.assert_close(losses[1:], [losses[0]] * 2, **CLOSE)


@torch.no_grad()
def test_without_a_number_of_items_the_loss_is_the_mean_over_what_is_said(
    model: SpeedLlamaForTraining, conversations: list[Conversation], examples: Examples
) -> None:
    chosen = examples.entering(0)
    batch = join([chosen[number] for number in range(len(CHATS))])
    num_said = sum(len(turn) for conversation in conversations for turn in conversation.turns)
    assert int((batch["labels"] != IGNORED_LABEL).sum()) == num_said
    torch.testing.assert_close(float(model(**batch).loss), summed_loss(model, batch) / num_said, **CLOSE)


@pytest.mark.parametrize("distil", [True, False])
def test_logits_in_chunks_give_the_same_loss_and_gradients(
    model: SpeedLlamaForTraining, examples: Examples, distil: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = examples.entering(2, distil=distil)
    batch = join([chosen[number] for number in range(len(CHATS))])
    weight = model.model.layers[2].mlp.up_proj.weight
    found = []
    for rows in (1024, 7):
        monkeypatch.setattr(training, "LOGIT_ROWS", rows)
        model.zero_grad()
        model(**batch).loss.backward()
        found.append((model(**batch).loss, weight.grad.clone()))
    for whole, in_chunks in zip(*found, strict=True):
        torch.testing.assert_close(in_chunks, whole, **CLOSE)
    assert found[0][1].abs().max() > 1e-3


def tails_of(chosen: TrainingExamples, numbers: Sequence[int]) -> list[int]:
    """By the number of rows before the first one that says something."""
    first_turns = [chosen[number] for number in numbers]
    return [int((one["labels"] != IGNORED_LABEL).int().argmax()) + 1 - SPEED.anchor_tokens for one in first_turns]


def test_each_conversation_meets_every_tail_in_turn(examples: Examples) -> None:
    chosen = examples.entering(0)
    by_epoch = []
    for chosen.epoch in range(len(TAILS)):
        by_epoch.append(tails_of(chosen, range(2)))
        assert by_epoch[-1] == tails_of(chosen, range(2)), "another tail within an epoch"
    for met in zip(*by_epoch, strict=True):
        assert sorted(met) == sorted(TAILS)


def test_without_a_teacher_and_kept_states_there_is_no_folder(conversations: list[Conversation]) -> None:
    chosen = TrainingExamples(conversations, [1, 0], SPEED, TAILS, None, entry_layer=0, distil=False)
    assert set(chosen[0]) == {"positions", "turns", "labels", "input_ids"}
    assert tuple(chosen[0]["input_ids"].tolist()) == conversations[1].token_ids
