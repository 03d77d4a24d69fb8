"""Two switches that every test on a GPU runs under, and the checkpoints that they share."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch

from sglang_speed.lab.bench import ARCH_NAMES
from tests.catalogue import ON_GPU
from tests.gpu.closeness import Rounded

Checkpoints = Callable[..., Rounded]


@pytest.fixture
def cuda() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")


@pytest.fixture(params=ON_GPU)
def backend(request: pytest.FixtureRequest, cuda: None) -> str:
    return str(request.param)


@pytest.fixture(params=["eager", "graphs"])
def graphs(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def settings(backend: str, graphs: str) -> dict[str, Any]:
    """Fields of ServerArgs; graphs are captured for few batches, and the others are padded to them."""
    return {
        "device": "cuda",
        "dtype": "bfloat16",
        "attention_backend": backend,
        "sampling_backend": "pytorch",
        "grammar_backend": "none",
        "disable_prefill_cuda_graph": True,
        "disable_decode_cuda_graph": graphs == "eager",
        "cuda_graph_bs_decode": [1, 4, 16],
        "cuda_graph_max_bs_decode": 16,
        "max_running_requests": 16,
        "chunked_prefill_size": 64,
        "mem_fraction_static": 0.5,
    }


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--arch", default="llama", choices=ARCH_NAMES, help="architecture of the models in tests/gpu")


@pytest.fixture(scope="session")
def model(request: pytest.FixtureRequest) -> str:
    """The model type, a row of tests/catalogue.py; `llama` where other folders are tested too."""
    return str(request.config.getoption("--arch", "llama"))


@pytest.fixture(scope="session")
def checkpoints(model: str, tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    """checkpoints(dtype, num_kv_heads=2, head_dim=128): made once for a session."""

    @cache
    def make(dtype: str = "bfloat16", prefill_layers: int = 6, **shape: int) -> Rounded:
        directory = tmp_path_factory.mktemp("rounded")
        return Rounded(directory, dtype, {"prefill_layers": prefill_layers}, model, **shape)

    return make
