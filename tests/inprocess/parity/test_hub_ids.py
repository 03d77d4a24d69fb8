"""A SPEED checkpoint under the id that it has on a hub, read from the local cache: what holds for a directory holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from sglang_speed.checkpoints.hub import local_checkpoint
from sglang_speed.errors import ConfigError
from tests.catalogue import STOCK_BANDS
from tests.host import leaves_out_prefill_graphs
from tests.inprocess.parity.conftest import Checkpoints
from tests.inprocess.parity.expected import Ask, Expected, prompt
from tests.scheduler_harness import running_scheduler

HUB_ID = Path("somebody/speed-model")
REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cached(expected: Expected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint lies where a download would have put it; nothing is asked of the network."""
    repository = tmp_path / "models--somebody--speed-model"
    for folder in ("refs", "snapshots"):
        (repository / folder).mkdir(parents=True)
    (repository / "refs" / "main").write_text(REVISION)
    (repository / "snapshots" / REVISION).symlink_to(expected.path, target_is_directory=True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("cached")
def test_a_hub_id_is_served_without_prefill_graphs(expected: Expected) -> None:
    """SGLang would capture them on CUDA; the flag need not be given."""
    with running_scheduler(HUB_ID) as engine:
        assert leaves_out_prefill_graphs(engine.scheduler)
        expected.answered(engine, [Ask(prompt(40), 8)])


@pytest.mark.usefixtures("cached")
def test_tools_find_it_too(expected: Expected) -> None:
    assert local_checkpoint(str(HUB_ID)).samefile(expected.path)
    assert local_checkpoint("somebody/another") == Path("somebody/another")


def test_models_whose_prompts_pass_all_layers_keep_their_prefill_graphs(
    checkpoints: Checkpoints, plain_checkpoint: Path
) -> None:
    for path in (checkpoints(STOCK_BANDS[0]).path, plain_checkpoint):
        with running_scheduler(path) as engine:
            assert not leaves_out_prefill_graphs(engine.scheduler)


@pytest.mark.usefixtures("cached")
@pytest.mark.parametrize(
    "changed",
    [
        {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
        {"speed": {"prefill_layers": 5, "anchor_tokens": 1, "tail_tokens": 3}},
    ],
    ids=str,
)
def test_a_hub_id_is_not_served_as_another_model_or_at_another_depth(changed: dict[str, Any]) -> None:
    overrides = {"json_model_override_args": json.dumps(changed)}
    with pytest.raises(ConfigError, match="--json-model-override-args"), running_scheduler(HUB_ID, **overrides):
        pass


def test_a_full_depth_model_keeps_its_prefill_graphs(plain_checkpoint: Path) -> None:
    with running_scheduler(plain_checkpoint) as engine:
        assert not engine.scheduler.server_args.disable_prefill_cuda_graph
