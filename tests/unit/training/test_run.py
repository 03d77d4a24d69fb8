"""What a training run does to the weights, and that a cut does not change it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from sglang_speed.checkpoints.adapter import PROVENANCE_NAME, Training, training_of
from sglang_speed.checkpoints.weights import INDEX_NAME, read_weights
from sglang_speed.config import SpeedConfig
from sglang_speed.lab.common.chat import ChatFormat, read_conversations
from sglang_speed.lab.training import command
from sglang_speed.lab.training.batches import TrainingExamples, join
from sglang_speed.lab.training.run import LengthGroupedSampler, train
from sglang_speed.lab.training.settings import Objective
from sglang_speed.models.architectures import ARCHITECTURES
from sglang_speed.reference.modeling import SpeedLlamaForCausalLM
from sglang_speed.reference.training import SpeedLlamaForTraining
from tests.catalogue import MODELS
from tests.unit.training.chats import SHAPE
from tests.unit.training.conftest import MakeModel
from tests.unit.training.models import for_training
from tests.unit.training.runs import NUM_HELD_OUT, SPEED, answered_chats, run, settings_of, weights_of

COMBINATIONS = [
    pytest.param({"objective": objective, "first_layer": first, "lora_rank": rank}, id=f"{objective}-{first}-{rank}")
    for objective in Objective
    for first in (None, 0, 1)
    for rank in (4, 0)
]


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name, weight in before.items() if not torch.equal(weight, after[name])}


def layer_weights(first: int, kinds: str) -> set[str]:
    every = {
        "attention": [f"self_attn.{name}_proj" for name in "qkvo"],
        "mlp": [f"mlp.{name}_proj" for name in ("gate", "up", "down")],
        "norms": ["input_layernorm", "post_attention_layernorm"],
    }
    names = [name for kind in kinds.split() for name in every[kind]]
    return {f"model.layers.{layer}.{name}.weight" for layer in range(first, 4) for name in names}


@pytest.mark.parametrize("choice", COMBINATIONS)
def test_the_loss_falls_and_only_the_chosen_weights_move(llama: Path, tmp_path: Path, choice: dict[str, Any]) -> None:
    settings = settings_of(**choice, epochs=4)
    record = run(llama, tmp_path, settings)
    assert record.first_loss is not None
    assert record.last_loss is not None
    assert record.last_loss < 0.95 * record.first_loss
    first = settings.lowest_layer
    expected = layer_weights(first, "attention mlp")
    if not settings.lora_rank:
        expected |= layer_weights(first, "norms") | {"model.norm.weight"}
    assert changed(weights_of(llama), weights_of(tmp_path / "trained")) == expected
    if settings.objective is Objective.SFT:
        assert_loss_of_held_out(tmp_path, record.last_loss)


@torch.no_grad()
def assert_loss_of_held_out(folder: Path, expected: float) -> None:
    """That the written checkpoint has the loss that was measured in training, LoRA's factors beside the weights."""
    conversations = read_conversations(folder / "chats.jsonl", ChatFormat.of_checkpoint(folder / "trained"))
    order = list(range(len(conversations)))
    random.Random(0).shuffle(order)
    held_out = TrainingExamples(
        conversations, order[:NUM_HELD_OUT], SPEED, [SPEED.tail_tokens], None, entry_layer=0, distil=False
    )
    model = SpeedLlamaForTraining.from_pretrained(folder / "trained").eval()
    loss = model(**join([held_out[number] for number in range(NUM_HELD_OUT)])).loss
    torch.testing.assert_close(float(loss), expected, rtol=1e-4, atol=1e-4)


class Cut(BaseException):
    """As if the process were killed."""


def cut_after(monkeypatch: pytest.MonkeyPatch, num_steps: int) -> None:
    """Raise in the training forward after so many."""
    forward, counted = SpeedLlamaForTraining.forward, []

    def counting(self: SpeedLlamaForTraining, *args: Any, **kwargs: Any) -> Any:
        counted.extend([1] * self.training)
        if len(counted) > num_steps:
            raise Cut
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(SpeedLlamaForTraining, "forward", counting)


@pytest.mark.parametrize("lora_rank", [4, 0])
def test_a_run_that_was_cut_ends_with_the_weights_of_one_that_was_not(
    llama: Path, tmp_path: Path, lora_rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(lora_rank=lora_rank, tails=(2, 5), batch_size=2, epochs=2, first_layer=1, span_tokens=4)
    whole = run(llama, tmp_path, settings, "whole")
    for num_steps in (0, 3, 2):
        with monkeypatch.context() as patch:
            cut_after(patch, num_steps)
            with pytest.raises(Cut):
                run(llama, tmp_path, settings, "cut")
    trainer_folder = tmp_path / "cut.work" / "trainer"
    (trainer_folder / "checkpoint-7").mkdir()
    (trainer_folder / "checkpoint-7" / "model.safetensors").write_bytes(b"half")
    record = run(llama, tmp_path, settings, "cut")
    assert changed(weights_of(tmp_path / "whole"), weights_of(tmp_path / "cut")) == set()
    assert (record.first_loss, record.last_loss) == (whole.first_loss, whole.last_loss)


@pytest.mark.parametrize("lora_rank", [4, 0])
def test_a_run_that_was_cut_after_its_last_step_only_writes(
    llama: Path, tmp_path: Path, lora_rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(lora_rank=lora_rank)
    first = run(llama, tmp_path, settings)
    (tmp_path / "trained").rename(tmp_path / "first")
    cut_after(monkeypatch, 0)
    assert run(llama, tmp_path, settings) == first
    assert changed(weights_of(tmp_path / "first"), weights_of(tmp_path / "trained")) == set()


def test_a_seed_repeats_a_run(llama: Path, tmp_path: Path) -> None:
    for name, seed in (("first", 1), ("second", 1), ("third", 2)):
        torch.manual_seed(len(name))
        run(llama, tmp_path, settings_of(seed=seed, epochs=1), name)
    first, second, third = (weights_of(tmp_path / name) for name in ("first", "second", "third"))
    assert changed(first, second) == set()
    assert changed(first, third)


def test_spans_are_learned_from_and_not_measured_on(llama: Path, tmp_path: Path) -> None:
    without = run(llama, tmp_path, settings_of(epochs=1), "without")
    spans = run(llama, tmp_path, settings_of(epochs=1, span_tokens=4), "with")
    assert changed(weights_of(tmp_path / "without"), weights_of(tmp_path / "with"))
    assert spans.first_loss == without.first_loss
    assert spans.num_said_tokens == without.num_said_tokens


def test_batches_have_like_lengths_and_come_in_another_order_each_epoch() -> None:
    drawn = random.Random(0)
    lengths = [drawn.randint(10, 1000) for _ in range(203)]
    examples = SimpleNamespace(lengths=lengths, epoch=0)
    orders = []
    for examples.epoch in (0, 1, 1):
        orders.append(list(LengthGroupedSampler(examples, 8, seed=3)))
        assert sorted(orders[-1]) == list(range(203))
        batches = [[lengths[index] for index in orders[-1][start : start + 8]] for start in range(0, 203, 8)]
        padded = sum(len(batch) * max(batch) for batch in batches)
        assert padded < 1.2 * sum(lengths), "a quarter and more of what random batches hold is padding"
        longest = [max(batch) for batch in batches]
        assert longest not in (sorted(longest), sorted(longest, reverse=True))
    assert orders[0] != orders[1] == orders[2]


def test_accumulated_gradients_are_those_of_one_batch(llama: Path, tmp_path: Path, chat_format: ChatFormat) -> None:
    """The losses of a step are summed and divided by its number of labels, not by its number of batches."""
    conversations = read_conversations(answered_chats(tmp_path), chat_format)
    logged = []
    for batch_size, accumulate in ((8, 1), (2, 4), (1, 8)):
        settings = settings_of(batch_size=batch_size, accumulate=accumulate, epochs=1, lora_rank=0)
        all_of, none = (
            TrainingExamples(conversations, range(num), SPEED, [2], None, entry_layer=0, distil=False) for num in (8, 0)
        )
        trainer = train(for_training(llama, SPEED), all_of, none, settings, tmp_path / str(batch_size))
        logged.append({name: trainer.state.log_history[0][name] for name in ("loss", "grad_norm")})
    for entry in logged[1:]:
        assert entry == pytest.approx(logged[0], rel=1e-4)


@pytest.mark.parametrize("name", [row.model_type for row in ARCHITECTURES.values() if row.is_like_llama])
def test_the_result_is_a_speed_checkpoint_with_everything_in_it(
    make_model: MakeModel, tmp_path: Path, name: str
) -> None:
    source = make_model(**{**MODELS[name], **SHAPE})
    record = run(source, tmp_path, settings_of())
    assert record.last_loss is not None
    assert record.last_loss < 0.95 * record.first_loss
    trained = tmp_path / "trained"
    model, info = AutoModelForCausalLM.from_pretrained(trained, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert SpeedConfig.from_checkpoint(trained) == SPEED == model.policy.config
    assert json.loads((trained / "config.json").read_text(encoding="utf-8"))["model_type"] == f"speed_{name}"
    kept = {path.name for path in source.iterdir()} - {"config.json", "model.safetensors"}
    for file in kept:
        assert (trained / file).read_bytes() == (source / file).read_bytes()
    made = {"config.json", "model.safetensors", PROVENANCE_NAME, "README.md"}
    assert {path.name for path in trained.iterdir()} - kept == made
    assert len({path.stat().st_mode for path in trained.iterdir()}) == 1, "safetensors' own mode is 0600"
    assert training_of(trained) is Training.TRAINED
    card = (trained / "README.md").read_text(encoding="utf-8")
    for part in ("2 of 4 layers", "chats.jsonl, chats: 10", f"{record.last_loss:.4f} after"):
        assert part in card
    written = json.loads((trained / PROVENANCE_NAME).read_text(encoding="utf-8"))
    assert written["last_loss"] == record.last_loss
    assert (written["num_chats"], written["settings"]["objective"]) == (10, "distil")


@pytest.mark.parametrize("is_named", [True, False], ids=["named in the config", "not named"])
@pytest.mark.parametrize("fast_bfloat16", [True, False])
def test_a_checkpoint_of_16_bits_stays_one(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast_bfloat16: bool, is_named: bool
) -> None:
    monkeypatch.setattr(command, "has_fast_bfloat16", lambda: fast_bfloat16)
    for name in ("bfloat16", "float16"):
        source = make_model()
        model = LlamaForCausalLM.from_pretrained(source).to(getattr(torch, name))
        model.save_pretrained(source)
        config = json.loads((source / "config.json").read_text(encoding="utf-8"))
        assert config.pop("dtype") == name
        if not is_named:
            (source / "config.json").write_text(json.dumps(config), encoding="utf-8")
        for rank in (4, 0):
            record = run(source, tmp_path, settings_of(lora_rank=rank), f"{name}-{rank}")
            after = weights_of(tmp_path / f"{name}-{rank}")
            assert {weight.dtype for weight in after.values()} == {getattr(torch, name)}
            assert record.last_loss is not None
            assert record.last_loss < 0.95 * record.first_loss
            frozen = {key for key in after if "layers.2" not in key and "layers.3" not in key} - {"model.norm.weight"}
            assert not changed(weights_of(source), after) & frozen


def test_tied_embeddings_stay_tied_and_as_they_were(make_model: MakeModel, tmp_path: Path) -> None:
    source = make_model(tie_word_embeddings=True)
    run(source, tmp_path, settings_of(first_layer=0, lora_rank=0, epochs=1))
    before, after = weights_of(source), weights_of(tmp_path / "trained")
    assert "lm_head.weight" not in after
    assert "model.embed_tokens.weight" not in changed(before, after)
    model = SpeedLlamaForCausalLM.from_pretrained(tmp_path / "trained")
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_sharded_source_becomes_one_consistent_checkpoint(make_model: MakeModel, tmp_path: Path) -> None:
    source = make_model()
    model = LlamaForCausalLM.from_pretrained(source)
    (source / "model.safetensors").unlink()
    model.save_pretrained(source, max_shard_size="64KB")
    assert (source / INDEX_NAME).is_file(), "the source of this test is not sharded"
    run(source, tmp_path, settings_of(epochs=1))
    assert not (tmp_path / "trained" / INDEX_NAME).exists()
    assert read_weights(tmp_path / "trained").layers == {0, 1, 2, 3}
    assert weights_of(source).keys() == weights_of(tmp_path / "trained").keys()
