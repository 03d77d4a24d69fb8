"""What ranks compare when they start: several threads stand for ranks, a store in memory for that of their group."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch.distributed as dist

from sglang_speed.checkpoints.weights import sample_digest
from sglang_speed.config import SpeedConfig
from sglang_speed.errors import ConfigError
from sglang_speed.host.adapter import HOST
from sglang_speed.serving import agreement
from sglang_speed.serving.arguments import complete
from tests.host import IS_OLDEST, typed_arguments
from tests.tiny_models import make_tiny_model

SPEED = SpeedConfig.from_dict({"prefill_layers": 6}, 8)
SIZES = SimpleNamespace(max_total_num_tokens=100, max_running_requests=4)
_rank = threading.local()

pytestmark = pytest.mark.skipif(IS_OLDEST, reason="several machines are refused there")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Made like each other but for what their names say; `copy` is a copy in another place."""
    made: dict[str, Mapping[str, Any]] = {"usual": {}, "copy": {}, "other weights": {"seed": 1}, "4 tail": {}}
    return {
        name: make_tiny_model(
            tmp_path_factory.mktemp("model"),
            speed={"prefill_layers": 6, "tail_tokens": 4 if name == "4 tail" else 3},
            num_layers=8,
            **more,
        )
        for name, more in made.items()
    }


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch, models: dict[str, Path]) -> Any:
    """Runs a function as each of two ranks; what each of them raised."""
    store = dist.HashStore()
    monkeypatch.setattr(agreement, "_store", lambda: store)
    monkeypatch.setattr(agreement, "_num_ranks", lambda: 2)
    monkeypatch.setattr(agreement, "PATIENCE", timedelta(seconds=5))
    monkeypatch.setattr(dist, "get_rank", lambda: _rank.number)
    monkeypatch.setattr(HOST, "arguments_of_process", lambda: _rank.args)

    def run(function: Any, *each: Mapping[str, Any]) -> list[str]:
        def as_rank(number: int) -> str:
            own = {"nnodes": 2, **each[number]}
            deep_tokens = own.pop("deep_tokens", None)
            with pytest.MonkeyPatch.context() as patch:
                _rank.number, _rank.args = number, arguments(models[own.pop("model", "usual")], deep_tokens, patch, own)
            try:
                function()
            except ConfigError as error:
                return str(error)
            return ""

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(as_rank, range(2)))

    return run


_one_environment = threading.Lock()


def arguments(model: Path, deep_tokens: str | None, patch: pytest.MonkeyPatch, chosen: Mapping[str, Any]) -> Any:
    with _one_environment:
        if deep_tokens is not None:
            patch.setenv("SGLANG_SPEED_DEEP_TOKENS", deep_tokens)
        args = typed_arguments(str(model), **chosen)
        complete(args)
        patch.undo()
        return args


def setups() -> None:
    agreement.compare_setups(SPEED)


@pytest.mark.parametrize(
    ("other", "differs"),
    [
        ({"deep_tokens": "7"}, "SGLANG_SPEED_DEEP_TOKENS: 7, rank 0 (node 0): None"),
        ({"max_total_tokens": 50}, "--max-total-tokens: 50, rank 0 (node 0): None"),
        ({"page_size": 16}, "--page-size: 16, rank 0 (node 0): "),
        ({"dtype": "float32"}, "--dtype: float32, rank 0 (node 0): auto"),
        ({"disable_radix_cache": True}, "--disable-radix-cache: True, rank 0 (node 0): False"),
        ({"model": "4 tail"}, "`speed` of config.json: {'prefill_layers': 6, "),
    ],
    ids=str,
)
def test_every_rank_says_what_differs(group: Any, other: Mapping[str, Any], differs: str) -> None:
    found = group(setups, {}, other)
    assert found[0] == found[1]
    assert f"must serve the same, but rank 1 (node 1) has {differs}" in found[0]


@pytest.mark.parametrize(
    "other", [{}, {"model": "copy"}, {"port": 4000}, {"node_rank": 1}, {"served_model_name": "other"}], ids=str
)
def test_what_belongs_to_a_machine_may_differ(group: Any, other: Mapping[str, Any]) -> None:
    assert group(setups, {}, other) == ["", ""]


def test_several_differences_are_all_named(group: Any) -> None:
    [message, _] = group(setups, {}, {"deep_tokens": "7", "max_total_tokens": 50})
    assert "SGLANG_SPEED_DEEP_TOKENS: 7" in message
    assert "--max-total-tokens: 50" in message


def test_a_rank_with_another_model_says_so_and_is_left_alone(group: Any) -> None:
    """It reads nothing, so what the others raise it does not."""
    speeds = {0: SPEED, 1: None}
    found = group(lambda: agreement.compare_setups(speeds[_rank.number]), {}, {})
    assert "rank 1 (node 1) has a SPEED model: no, rank 0 (node 0): yes" in found[0]
    assert found[1] == ""


def test_a_draft_model_beside_the_first_changes_nothing(group: Any) -> None:
    def load_both() -> None:
        setups()
        agreement.compare_setups(None)

    assert group(load_both, {}, {}) == ["", ""]
    for rank in range(2):
        said = json.loads(agreement._store().get(agreement._key(agreement.SETUP, rank)))
        assert said.keys().isdisjoint(agreement.NO_SPEED_MODEL), "a late rank reads it after the draft model was made"


def test_a_rank_that_says_nothing_is_named(group: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "PATIENCE", timedelta(seconds=1))
    found = group(lambda: setups() if _rank.number == 0 else None, {}, {})
    assert "rank 1 (node 1) has not said what it serves within 1 s" in found[0]


@pytest.mark.parametrize(
    ("second", "differs"),
    [
        ({"deep": 41}, "tokens of the deep band: 41, rank 0 (node 0): 40"),
        ({"max_total_num_tokens": 99}, "tokens of the main pool: 99, rank 0 (node 0): 100"),
        ({"max_running_requests": 3}, "running requests: 3, rank 0 (node 0): 4"),
        ({"model": "other weights"}, "weights: digest "),
        ({"model": "copy"}, ""),
        ({}, ""),
    ],
    ids=str,
)
def test_rooms_and_weights_are_compared_when_pools_are_sized(group: Any, second: dict[str, Any], differs: str) -> None:
    def memory() -> None:
        own = second if _rank.number else {}
        sizes = SimpleNamespace(**{**vars(SIZES), **{key: own[key] for key in own.keys() & vars(SIZES).keys()}})
        agreement.compare_memory(HOST.resolved(_rank.args), sizes, {"deep": own.get("deep", 40)})

    found = group(memory, {}, {"model": second.get("model", "usual")})
    assert bool(differs) == bool(found[0]) == bool(found[1])
    assert differs in found[0]


def test_one_rank_compares_nothing() -> None:
    agreement.compare_setups(SPEED)
    agreement.compare_memory(None, None, {})


def test_random_weights_have_no_digest(group: Any) -> None:
    def memory() -> None:
        agreement.compare_memory(HOST.resolved(_rank.args), SIZES, {})

    dummy = {"load_format": "dummy"}
    assert group(memory, dummy, {**dummy, "model": "other weights"}) == ["", ""]


def test_a_digest_tells_weights_apart_and_copies_not(models: dict[str, Path]) -> None:
    digests = {name: sample_digest(path) for name, path in models.items()}
    assert digests["usual"] == digests["copy"] != digests["other weights"]
