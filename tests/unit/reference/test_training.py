"""Training sees what serving sees: every turn's loss is that of the turn served alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from sglang_speed.models.architectures import ARCHITECTURES
from sglang_speed.reference.generation import score
from sglang_speed.reference.modeling import IGNORED_LABEL, SpeedLlamaForCausalLM, class_for
from sglang_speed.reference.training import DeepRows, TrainingModel, deep_rows
from sglang_speed.reference.turn_attention import TURN_ATTENTION
from tests.tiny_models import ids_of

IDS = ids_of("a system prompt, a question? an answer. another question? ok! the third one? a longer answer, at last.")
TURNS = (range(28, 40), range(57, 61), range(77, 102))
OTHER_IDS = ids_of("short? yes.")
OTHER_TURNS = (range(7, 12),)
# sums of some dozens of values of some units, in float32 through four layers
CLOSE = {"rtol": 1e-5, "atol": 1e-4}

SpeedModels = Callable[..., SpeedLlamaForCausalLM]


def for_training(model: SpeedLlamaForCausalLM, attention: str = "sdpa") -> TrainingModel:
    """The same weights with the forward of training."""
    trained: TrainingModel = class_for(model.config, TrainingModel)._from_config(
        deepcopy(model.config), attn_implementation=attention
    )
    assert trained.config._attn_implementation == attention
    trained.load_state_dict(model.state_dict())
    return trained.eval()


def rows_of(model: TrainingModel, ids: Sequence[int], turns: Sequence[range]) -> dict[str, Tensor]:
    rows = deep_rows(model.policy, ids, turns)
    return {name: torch.tensor(getattr(rows, name)) for name in ("positions", "turns", "labels")}


def loss_of(model: TrainingModel, ids: Sequence[int], turns: Sequence[range]) -> Tensor:
    """Summed over what the turns say."""
    rows = rows_of(model, ids, turns)
    output = model(**rows, input_ids=torch.tensor([ids]), rows=rows["positions"], num_items_in_batch=1)
    assert output.loss is not None
    return output.loss


def served_loss(model: SpeedLlamaForCausalLM, ids: Sequence[int], turn: range) -> float:
    """The same of one turn, by the reference's own forward over nothing but its prompt and what it says."""
    deep = model.policy.deep_tokens(prompt_len=turn.start)
    return -sum(score(model, ids[: turn.stop], deep.deep_start)[-len(turn) :])


@torch.no_grad()
@pytest.mark.parametrize("tail_tokens", [1, 3, 64])
@pytest.mark.parametrize("anchor_tokens", [0, 1, 4])
@pytest.mark.parametrize("prefill_layers", [1, 3, 4])
def test_a_turns_loss_is_that_of_the_turn_served_alone(
    speed_model: SpeedModels, prefill_layers: int, anchor_tokens: int, tail_tokens: int
) -> None:
    served = speed_model(prefill_layers, anchor_tokens, tail_tokens)
    model = for_training(served)
    expected = [served_loss(served, IDS, turn) for turn in TURNS]
    for turn, loss in zip(TURNS, expected, strict=True):
        torch.testing.assert_close(float(loss_of(model, IDS, [turn])), loss, **CLOSE)
    torch.testing.assert_close(float(loss_of(model, IDS, TURNS)), sum(expected), **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("name", [row.model_type for row in ARCHITECTURES.values() if row.is_like_llama])
def test_every_architecture_that_is_trained_has_the_loss_of_its_turns(speed_model: SpeedModels, name: str) -> None:
    served = speed_model(3, 1, 3, name)
    expected = sum(served_loss(served, IDS, turn) for turn in TURNS)
    torch.testing.assert_close(float(loss_of(for_training(served), IDS, TURNS)), expected, **CLOSE)


@torch.no_grad()
def test_the_depth_of_earlier_turns_matters(speed_model: SpeedModels) -> None:
    """Without this the comparison above could hold with any visibility: one sequence of all rows differs."""
    model = for_training(speed_model(2, 1, 2))
    rows = rows_of(model, IDS, TURNS)
    seen_by_all = {**rows, "turns": torch.zeros_like(rows["turns"])}
    common = {"input_ids": torch.tensor([IDS]), "rows": rows["positions"]}
    assert abs(model(**rows, **common).loss - model(**seen_by_all, **common).loss) > 0.01


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager", TURN_ATTENTION])
def test_conversations_of_a_batch_do_not_see_each_other(
    speed_model: SpeedModels, attention: str, request: pytest.FixtureRequest
) -> None:
    if attention == TURN_ATTENTION:
        request.getfixturevalue("traced")
    model = for_training(speed_model(2, 1, 3), attention)
    (first, second), width = (rows_of(model, IDS, TURNS), rows_of(model, OTHER_IDS, OTHER_TURNS)), len(IDS)
    batch = {
        "positions": torch.cat([first["positions"], second["positions"]]),
        "turns": torch.cat([first["turns"], second["turns"] + len(TURNS)]),
        "labels": torch.cat([first["labels"], second["labels"]]),
        "rows": torch.cat([first["positions"], second["positions"] + width]),
        "input_ids": torch.tensor([IDS, [*OTHER_IDS, *[0] * (width - len(OTHER_IDS))]]),
    }
    plain = for_training(speed_model(2, 1, 3))
    expected = loss_of(plain, IDS, TURNS) + loss_of(plain, OTHER_IDS, OTHER_TURNS)
    torch.testing.assert_close(model(**batch, num_items_in_batch=1).loss, expected, **CLOSE)


def test_kept_cutoff_states_give_the_same_loss_and_the_same_gradients_of_the_deep_band(
    speed_model: SpeedModels,
) -> None:
    model = for_training(speed_model(2, 1, 3))
    rows = rows_of(model, IDS, TURNS)
    loss_of(model, IDS, TURNS).backward()
    deep = [parameter for layer in model.model.layers[2:] for parameter in layer.parameters()]
    whole = [parameter.grad.clone() for parameter in deep]
    model.zero_grad()
    with torch.no_grad():
        kept = model.cutoff_states(model.entry_states(torch.tensor([IDS])))[0, rows["positions"]]
    model(**rows, cutoff_states=kept, num_items_in_batch=1).loss.backward()
    for parameter, expected in zip(deep, whole, strict=True):
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-4, atol=1e-3)
    assert all(parameter.grad is None for parameter in model.model.layers[:2].parameters())


@torch.no_grad()
def test_the_loss_against_a_teacher_is_the_divergence_from_its_distribution(
    speed_model: SpeedModels, stock_model: LlamaForCausalLM
) -> None:
    model = for_training(speed_model(2, 1, 3))
    rows = rows_of(model, IDS, TURNS)
    said = rows["positions"][rows["labels"] != IGNORED_LABEL]
    teacher_states = stock_model.model(torch.tensor([IDS])).last_hidden_state[0, said]
    teacher = stock_model(torch.tensor([IDS])).logits[0, said].log_softmax(-1)
    hidden = model.deep_states(
        model.cutoff_states(model.entry_states(torch.tensor([IDS])))[0, rows["positions"]],
        *[rows[name] for name in ("positions", "turns")],
    )
    student = model.lm_head(hidden[rows["labels"] != IGNORED_LABEL]).log_softmax(-1)
    expected = (teacher.exp() * (teacher - student)).sum(-1).mean()
    given = model(**rows, input_ids=torch.tensor([IDS]), rows=rows["positions"], teacher_states=teacher_states).loss
    torch.testing.assert_close(given, expected, **CLOSE)
    assert expected > 0.01


@torch.no_grad()
def test_at_full_depth_nothing_diverges_from_the_teacher(
    speed_model: SpeedModels, stock_model: LlamaForCausalLM
) -> None:
    model = for_training(speed_model(4))
    rows = rows_of(model, IDS, TURNS)
    said = rows["positions"][rows["labels"] != IGNORED_LABEL]
    teacher_states = stock_model.model(torch.tensor([IDS])).last_hidden_state[0, said]
    loss = model(**rows, input_ids=torch.tensor([IDS]), rows=rows["positions"], teacher_states=teacher_states).loss
    assert abs(loss) < 1e-5


def test_rows_of_a_turn_are_its_anchors_its_tail_and_what_it_says() -> None:
    from sglang_speed.config import SpeedConfig
    from sglang_speed.policies import SpeedPolicy

    policy = SpeedPolicy(SpeedConfig(4, 3, anchor_tokens=1, tail_tokens=2))
    ids = list(range(100, 112))
    assert deep_rows(policy, ids, [range(5, 7), range(9, 12)]) == DeepRows(
        positions=(0, 3, 4, 5, 0, 7, 8, 9, 10),
        turns=(0, 0, 0, 0, 1, 1, 1, 1, 1),
        labels=(IGNORED_LABEL, IGNORED_LABEL, 105, 106, IGNORED_LABEL, IGNORED_LABEL, 109, 110, 111),
    )


def test_a_checkpoint_loads_for_training_without_missing_weights(speed_model: SpeedModels, tmp_path: Path) -> None:
    speed_model(2).save_pretrained(tmp_path)
    ours = class_for(speed_model(2).config, TrainingModel)
    model, info = ours.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not model.policy.config.is_stock
