"""On a GPU: FlexAttention trains what scaled dot-product attention trains on a CPU, loss and gradients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sglang_speed.reference.training import SpeedLlamaForTraining, deep_rows
from sglang_speed.reference.turn_attention import TURN_ATTENTION
from tests.tiny_models import ids_of, make_tiny_model

SPEED = {"prefill_layers": 6, "anchor_tokens": 1, "tail_tokens": 3}
IDS = ids_of("a system prompt, a question? an answer. another question? ok! the third one? a longer answer, at last.")
TURN_LEN, TURN_EVERY = 20, 30
ROWS = {1: 69, 2: 138, 5: 391}
"""Rows of the deep band by how often the text is repeated: two heads share a key, so that 69 is too much for PyTorch's
decoding kernel; the others are several blocks of 128."""
CLOSE = {torch.float32: 1e-2, torch.bfloat16: 0.2}
"""Distance of a gradient, as a share of its norm. Tensor cores may round what FlexAttention multiplies; bfloat16 on a
CPU is 0.11 away at most, and a mask that shows other turns is 1.0 away."""

Build = Callable[[str, str], SpeedLlamaForTraining]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    directory: Path = make_tiny_model(tmp_path_factory.mktemp("tiny"), speed=SPEED)

    def model_on(device: str, attention: str) -> SpeedLlamaForTraining:
        model = SpeedLlamaForTraining.from_pretrained(directory, attn_implementation=attention)
        return model.to(device)

    return model_on


def trained(
    model: SpeedLlamaForTraining, repeats: int, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss per token of all turns, and the gradient of every parameter; matrix products in `dtype`."""
    ids = IDS * repeats
    turns = [range(start, start + TURN_LEN) for start in range(10, len(ids) - TURN_LEN, TURN_EVERY)]
    rows = deep_rows(model.policy, ids, turns)
    assert len(rows.positions) == ROWS[repeats]
    batch = {name: torch.tensor(getattr(rows, name)).to(model.device) for name in ("positions", "turns", "labels")}
    with torch.autocast(model.device.type, dtype, enabled=dtype is not torch.float32):
        loss = model(**batch, input_ids=torch.tensor([ids]).to(model.device), rows=batch["positions"]).loss
    loss.backward()
    gradients = {name: weight.grad.cpu() for name, weight in model.named_parameters() if weight.grad is not None}
    return loss.detach().float().cpu(), gradients


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("repeats", ROWS)
def test_flex_attention_trains_what_the_masks_train(cuda: None, build: Build, repeats: int, dtype: torch.dtype) -> None:
    loss, gradients = trained(build("cuda", TURN_ATTENTION), repeats, dtype)
    expected_loss, expected = trained(build("cpu", "sdpa"), repeats)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-2, atol=1e-2)
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        distance = (gradients[name] - gradient).norm() / gradient.norm()
        assert distance < CLOSE[dtype], f"{name}: {float(distance):.1e} of the gradient's norm away"
