"""The depth bands cover the layers of a model."""

from __future__ import annotations

import pytest

from sglang_speed.config import SpeedConfig
from sglang_speed.method import depth_bands


@pytest.mark.parametrize("num_layers", [1, 2, 8, 30])
def test_the_bands_cover_every_layer_once_from_the_bottom_up(num_layers: int) -> None:
    for prefill_layers in range(1, num_layers + 1):
        bands = depth_bands(SpeedConfig(num_layers, prefill_layers))
        layers = [layer for band in bands for layer in range(band.first_layer, band.end_layer)]
        assert layers == list(range(num_layers))


def test_every_cutoff_begins_a_deep_band() -> None:
    bands = depth_bands(SpeedConfig(8, 3, further_cutoffs=(4, 7)))
    assert [(band.name, band.first_layer, band.end_layer) for band in bands] == [
        ("shallow", 0, 3),
        ("deep1", 3, 4),
        ("deep2", 4, 7),
        ("deep3", 7, 8),
    ]


def test_the_shallow_band_has_the_prefill_layers() -> None:
    shallow, deep = depth_bands(SpeedConfig(num_layers=8, prefill_layers=6))
    assert (shallow.name, shallow.num_layers) == ("shallow", 6)
    assert (deep.name, deep.num_layers) == ("deep", 2)


def test_the_stock_model_has_one_band() -> None:
    assert len(depth_bands(SpeedConfig(num_layers=8, prefill_layers=8))) == 1
