"""FlexAttention, on a CPU: training's gradients, and how often PyTorch compiles it; its kernels are tested on a GPU."""

from __future__ import annotations

import torch
from torch._dynamo.utils import counters

from sglang_speed.reference.training import SpeedLlamaForTraining
from sglang_speed.reference.turn_attention import TURN_ATTENTION
from tests.unit.reference.conftest import SpeedModels
from tests.unit.reference.test_training import IDS, for_training, rows_of


def loss_and_gradient(model: SpeedLlamaForTraining, repeats: int, trains: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """A step of training, or of measuring the loss, as `sglang-speed train` makes it with kept states."""
    ids = IDS * repeats
    rows = rows_of(model, ids, [range(start, start + 20) for start in range(10, len(ids) - 20, 40)])
    model.entry_layer = 1
    model.eval()
    with torch.no_grad():
        states = model.entry_states(torch.tensor([ids]))
        model.full_depth_states(model.cutoff_states(states))
    model.train(trains)
    model.zero_grad()
    with torch.set_grad_enabled(trains):
        loss = model(**rows, entry_states=states, rows=rows["positions"], num_items_in_batch=1).loss
    if trains:
        loss.backward()
    gradient = model.model.layers[1].self_attn.q_proj.weight.grad
    return loss.detach(), torch.zeros(()) if gradient is None else gradient.clone()


def test_flex_attention_trains_the_same_and_is_not_compiled_for_each_batch(
    speed_model: SpeedModels, traced: None
) -> None:
    model, plain = (for_training(speed_model(2, 1, 3), attention) for attention in (TURN_ATTENTION, "sdpa"))
    for repeats, trains in ((1, True), (2, True), (5, False), (4, True), (1, False), (3, False)):
        loss, gradient = loss_and_gradient(model, repeats, trains)
        expected, expected_gradient = loss_and_gradient(plain, repeats, trains)
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-3)
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-3, atol=1e-3)
        assert bool(gradient.any()) == trains
    assert counters["stats"]["unique_graphs"] > 2, "nothing was compiled"
