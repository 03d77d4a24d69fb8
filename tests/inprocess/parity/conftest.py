"""Checkpoints of one seed under different bands, each with its reference."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Protocol
from unittest import mock

import pytest
from sglang.srt.platforms import current_platform

from sglang_speed.host.check import require_host
from sglang_speed.platforms.cpu import CpuPlatform
from tests import host
from tests.catalogue import SHAPE, Bands
from tests.inprocess.parity.expected import Expected
from tests.one_thread import one_thread  # noqa: F401
from tests.tiny_models import make_tiny_model


class Checkpoints(Protocol):
    """Makes a checkpoint with given bands, of a model of the catalogue, once."""

    def __call__(self, bands: Bands, model: str = "llama") -> Expected: ...


@pytest.fixture(scope="session", autouse=True)
def cpu_platform() -> None:
    """The schedulers of this folder run on it."""
    if not isinstance(current_platform, CpuPlatform):
        pytest.skip("the CPU platform stands down where there is an accelerator")


@pytest.fixture(scope="session", autouse=True)
def host_is_checked_once() -> Iterator[None]:
    """Every model asks whether all hooks are in place, which takes a third of a second; in one process they stay."""
    require_host("serving")
    with mock.patch("sglang_speed.serving.model.require_host"):
        yield


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    @cache
    def make(bands: Bands, model: str) -> Expected:
        if bands.kv_keep is not None and host.IS_OLDEST:
            pytest.skip("kv_keep is refused there, see test_what_cannot_be_thinned_is_refused")
        return Expected(tmp_path_factory.mktemp("speed"), bands, model=model)

    return lambda bands, model="llama": make(bands, model)


@pytest.fixture(scope="session")
def small_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    """The like with four layers, for tests of many steps."""

    @cache
    def make(bands: Bands, model: str) -> Expected:
        return Expected(tmp_path_factory.mktemp("small"), bands, model=model, num_layers=4)

    return lambda bands, model="llama": make(bands, model)


@pytest.fixture(scope="session")
def expected(checkpoints: Checkpoints) -> Expected:
    """Three quarters of the layers, one anchor, a tail of three."""
    return checkpoints(Bands())


@pytest.fixture(scope="session")
def plain_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights as a plain Llama, which SGLang serves with its own model."""
    return make_tiny_model(tmp_path_factory.mktemp("plain"), **SHAPE)
