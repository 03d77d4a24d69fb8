"""What an operator or a trainer does to a running server: pauses, new weights, sessions. Answers stay exact."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.server.conftest import SPEED
from tests.server.e2e.asking import NUM_NEW, Asker, long_prompt, wait_until
from tests.server.e2e.reference_answers import Reference
from tests.tiny_models import ids_of, make_tiny_model

PROMPT = long_prompt(100)
LONG = 400


@pytest.fixture
def unpaused(asker: Asker) -> Iterator[None]:
    """The server goes on whatever happens in a test."""
    yield
    asker.server.post("/continue_generation")


@pytest.mark.usefixtures("unpaused")
def test_a_retracted_request_goes_on_exactly(asker: Asker) -> None:
    """Its deep rows are given back and computed again: its tail and what it had generated."""
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(asker.ask, PROMPT, LONG)
        wait_until(lambda: asker.speed_state()["deep_tokens_used"] > 20)
        asker.server.post("/pause_generation", {"mode": "retract"})
        assert asker.is_idle()
        asker.server.post("/continue_generation")
        answer = pending.result(60)
    assert answer["meta_info"]["num_retractions"] == 1
    assert len(answer["output_ids"]) == LONG
    asker.reference.require(PROMPT, answer["output_ids"])


@pytest.mark.usefixtures("unpaused")
def test_a_request_paused_in_place_keeps_its_deep_tokens_and_goes_on_exactly(asker: Asker) -> None:
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(asker.ask, PROMPT, LONG)
        wait_until(lambda: asker.speed_state()["deep_tokens_used"] > 20)
        asker.server.post("/pause_generation", {"mode": "in_place"})
        assert not asker.is_idle()
        asker.server.post("/continue_generation")
        answer = pending.result(60)
    assert len(answer["output_ids"]) == LONG
    asker.reference.require(PROMPT, answer["output_ids"])


@pytest.fixture
def other(tmp_path: Path) -> Reference:
    """A checkpoint of the same shape with other weights."""
    return Reference(make_tiny_model(tmp_path / "other", seed=1, speed=SPEED))


def test_new_weights_forget_the_anchors_of_the_old(asker: Asker, other: Reference, tiny_speed: Path) -> None:
    asker.require_exact(PROMPT)
    for model, path in ((other, other.path), (asker.reference, tiny_speed)):
        answer = asker.server.post("/update_weights_from_disk", {"model_path": str(path)})
        assert answer["success"], answer
        assert asker.speed_state()["deep_tokens_used"] == 0
        for _ in range(2):
            model.require(PROMPT, asker.ask(PROMPT)["output_ids"])
    assert other.greedy(PROMPT, NUM_NEW) != asker.reference.greedy(PROMPT, NUM_NEW)


OTHER_CONFIGS = {
    "another cutoff": ({"speed": {**SPEED, "prefill_layers": 5}}, "has speed={'prefill_layers': 5"),
    "another tail": ({"speed": {**SPEED, "tail_tokens": 4}}, "'tail_tokens': 4}, and the running model has"),
    "full depth": ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, "is a full-depth checkpoint"),
    "another base": ({"rms_norm_eps": 0.5}, "has rms_norm_eps=0.5, and the running model has 1e-06"),
    "a wrong speed object": ({"speed": {"prefill_layers": 99}}, "prefill_layers=99 is not between 1 and 8"),
}


@pytest.mark.parametrize("name", OTHER_CONFIGS)
def test_weights_for_other_bands_are_refused(asker: Asker, tiny_speed: Path, tmp_path: Path, name: str) -> None:
    """`asker` checks that the old model goes on exactly."""
    changes, words = OTHER_CONFIGS[name]
    config = json.loads((tiny_speed / "config.json").read_text(encoding="utf-8")) | changes
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(requests.HTTPError, match=re.escape(words)) as refused:
        asker.server.post("/update_weights_from_disk", {"model_path": str(tmp_path)})
    assert refused.value.response.status_code == 400
    served = requests.get(f"{asker.server.url}/model_info", timeout=60).json()["model_path"]
    assert served == str(tiny_speed)


def test_a_session_is_a_conversation_with_exact_turns(asker: Asker) -> None:
    """Each turn sends what is new; what was generated before is prompt."""
    session = asker.server.post("/open_session", {"capacity_of_str_len": 1000})
    conversation, last_id = list(PROMPT), None
    for turn in range(3):
        new_ids = conversation if turn == 0 else ids_of(f"And turn {turn}?")[1:]
        answer = asker.ask(new_ids, session_params={"id": session, "rid": last_id})
        conversation = conversation if turn == 0 else conversation + new_ids
        asker.reference.require(conversation, answer["output_ids"])
        conversation, last_id = conversation + answer["output_ids"], answer["meta_info"]["id"]
    asker.server.post("/close_session", {"session_id": session})
    wait_until(asker.is_idle)
