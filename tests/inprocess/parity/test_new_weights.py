"""Weights that a trainer sends as tensors: all bands get them, and tensors of another model change nothing."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.catalogue import Bands
from tests.inprocess.parity.conftest import Checkpoints
from tests.inprocess.parity.expected import Ask, Expected, prompt
from tests.scheduler_harness import running_scheduler


def test_tensors_reach_every_band_and_a_refused_update_reaches_none(checkpoints: Checkpoints, tmp_path: Path) -> None:
    expected, ask = checkpoints(Bands()), Ask(prompt(40), 8)
    other = Expected(tmp_path / "other", Bands(), seed=1)
    tensors = list(load_file(other.path / "model.safetensors").items())
    foreign = ("model.layers.8.input_layernorm.weight", torch.ones(32))
    with running_scheduler(expected.path) as engine:
        updater = engine.scheduler.tp_worker.model_runner.weight_updater
        expected.answered(engine, [ask])
        succeeded, reason = updater.update_weights_from_tensor([*tensors, foreign])
        assert not succeeded
        assert "model.layers.8.input_layernorm.weight is not one of the 8 layers" in reason
        expected.answered(engine, [ask])
        assert updater.update_weights_from_tensor(tensors)[0]
        assert engine.scheduler.flush_cache()
        other.answered(engine, [ask, ask])
