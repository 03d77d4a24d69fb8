"""On a GPU: FlexAttention trains what scaled dot-product attention trains on a CPU, loss and gradients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sglang_speed.reference.training import SpeedLlamaForTraining, deep_rows
from sglang_speed.reference.turn_attention import TURN_ATTENTION
from tests.tiny_models import ids_of, make_tiny_llama

pytestmark = pytest.mark.gpu

SPEED = {"prefill_layers": 6, "anchor_tokens": 1, "tail_tokens": 3}
IDS = ids_of("a system prompt, a question? an answer. another question? ok! the third one? a longer answer, at last.")
TURNS = (range(28, 40), range(57, 61), range(77, 102))
# float32, but tensor cores may round what FlexAttention multiplies
CLOSE = {"rtol": 1e-2, "atol": 1e-2}

Build = Callable[[str, str], SpeedLlamaForTraining]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    directory: Path = make_tiny_llama(tmp_path_factory.mktemp("tiny"), speed=SPEED)

    def model_on(device: str, attention: str) -> SpeedLlamaForTraining:
        model = SpeedLlamaForTraining.from_pretrained(directory, attn_implementation=attention)
        return model.to(device)

    return model_on


def trained(model: SpeedLlamaForTraining) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss per token of all turns, and the gradient of every parameter."""
    rows = deep_rows(model.policy, IDS, TURNS)
    batch = {name: torch.tensor(getattr(rows, name)).to(model.device) for name in ("positions", "turns", "labels")}
    loss = model(**batch, input_ids=torch.tensor([IDS]).to(model.device), rows=batch["positions"]).loss
    loss.backward()
    gradients = {name: weight.grad.cpu() for name, weight in model.named_parameters() if weight.grad is not None}
    return loss.detach().cpu(), gradients


def test_flex_attention_trains_what_the_masks_train(cuda: None, build: Build) -> None:
    loss, gradients = trained(build("cuda", TURN_ATTENTION))
    expected_loss, expected = trained(build("cpu", "sdpa"))
    torch.testing.assert_close(loss, expected_loss, **CLOSE)
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        distance = (gradients[name] - gradient).norm() / gradient.norm()
        assert distance < CLOSE["rtol"], f"{name}: {float(distance):.1e} of the gradient's norm away"
