"""The digest of weights tells every change of one, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from sglang_speed.serving import stored_pages
from sglang_speed.serving.stored_pages import digest_of_weights


def some_model(dtype: torch.dtype = torch.float32) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3))
    for weight in model.parameters():
        weight.data = torch.randn(weight.shape, generator=generator).to(dtype)
    return model


def one_more_bit(model: nn.Module) -> None:
    model[0].weight.data.view(torch.int32)[3, 2] ^= 1


def two_swapped(model: nn.Module) -> None:
    row = model[1].weight.data[0]
    row[[0, 1]] = row[[1, 0]]


def layers_swapped(model: nn.Module) -> None:
    model[0].bias.data[:3], model[1].bias.data[:] = model[1].bias.data.clone(), model[0].bias.data[:3].clone()


@pytest.mark.parametrize("change", [one_more_bit, two_swapped, layers_swapped])
def test_a_change_of_any_weight_is_told(change: Callable[[nn.Module], None]) -> None:
    model = some_model()
    change(model)
    assert digest_of_weights(model) != digest_of_weights(some_model())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_the_digest_is_that_of_the_weights_alone(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the blocks are."""
    whole = digest_of_weights(some_model(dtype))
    assert digest_of_weights(some_model(dtype)) == whole
    monkeypatch.setattr(stored_pages, "BLOCK", 4)
    assert digest_of_weights(some_model(dtype)) == whole
    assert digest_of_weights(some_model(torch.float16)) != whole
