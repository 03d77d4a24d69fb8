"""Llama directories as users have them, and the real default model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sglang_speed.checkpoints.default_model import default_model
from sglang_speed.checkpoints.smollm2 import INSTALL_COMMAND, locate_gguf
from sglang_speed.errors import ConfigError
from tests.server.checkpoints.helpers import NUM_LAYERS
from tests.tiny_models import make_tiny_model


@pytest.fixture(scope="session")
def _tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(
        tmp_path_factory.mktemp("tiny"), num_layers=NUM_LAYERS, hidden_size=32, num_heads=4, num_kv_heads=2, head_dim=8
    )


@pytest.fixture
def llama(tmp_path: Path, _tiny: Path) -> Path:
    """A Llama checkpoint directory that a test may change."""
    return Path(shutil.copytree(_tiny, tmp_path / "llama"))


@pytest.fixture
def sharded_llama(llama: Path) -> Path:
    """The same weights in several files with an index."""
    from transformers import LlamaForCausalLM

    LlamaForCausalLM.from_pretrained(llama).save_pretrained(llama, max_shard_size="20KB")
    (llama / "model.safetensors").unlink(missing_ok=True)
    assert len(list(llama.glob("*.safetensors"))) > 2
    return llama


@pytest.fixture(scope="session")
def built_default_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real default model, built once for the session (10 to 15 s) into a cache of its own."""
    try:
        locate_gguf()
    except ConfigError:
        pytest.skip(f"the default model's package is not installed: {INSTALL_COMMAND}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return default_model()
