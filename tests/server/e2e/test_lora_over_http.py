"""LoRA adapters over HTTP: named by each request, loaded and unloaded while the server answers."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.host import IS_OLDEST
from tests.server.conftest import SERVER_ENV, SERVER_FLAGS
from tests.server.e2e.asking import long_prompt
from tests.server.e2e.reference_answers import Reference
from tests.server.servers import RunningServer, running_server
from tests.tiny_adapters import ALL_LINEAR, ENDS, TinyAdapter
from tests.tiny_models import ids_of

pytestmark = pytest.mark.skipif(IS_OLDEST, reason="refused there, see test_refused_settings")

FIRST = TinyAdapter("first", (*ALL_LINEAR, *ENDS))
LATER, AGAIN = (TinyAdapter("later", ("q_proj", "v_proj", "down_proj"), rank=2, seed=seed) for seed in (1, 2))
PROMPTS = [long_prompt(20 + 40 * index) for index in range(3)]


def adapted(reference: Reference, adapter: TinyAdapter) -> Reference:
    merged = copy.copy(reference)
    merged.model = adapter.merged(reference.model)
    return merged


@pytest.fixture(scope="module", params=["1", pytest.param("2", marks=pytest.mark.slow)], ids=["one rank", "two ranks"])
def server(
    request: pytest.FixtureRequest, tiny_speed: Path, reference: Reference, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """As a user starts it: what LoRA needs beside its own flags is found out."""
    path = FIRST.write(tmp_path_factory.mktemp("adapters") / "first", reference.model)
    flags = ("--lora-paths", f"first={path}", "--max-lora-rank", "8", "--max-loras-per-batch", "3")
    flags += ("--tp-size", request.param)
    apart = request.param != "1"
    with running_server(tiny_speed, *SERVER_FLAGS, *flags, env=SERVER_ENV, in_new_interpreter=apart) as server:
        yield server
        assert server.is_alive, server.log[-6000:]


def answers(server: RunningServer, adapter: str | None) -> list[list[int]]:
    """To all prompts; they are compared later, since a reference runs one forward at a time."""
    fields: dict[str, Any] = {} if adapter is None else {"lora_path": adapter}
    params = {"temperature": 0, "max_new_tokens": 8}
    return [server.generate(input_ids=prompt, sampling_params=params, **fields)["output_ids"] for prompt in PROMPTS]


def require_exact(reference: Reference, found: list[list[int]]) -> None:
    for prompt, output_ids in zip(PROMPTS, found, strict=True):
        assert len(output_ids) == 8
        reference.require(prompt, output_ids)


def test_adapters_come_and_go_and_every_request_has_its_own(
    server: RunningServer, reference: Reference, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(6) as pool:
        asked = {name: [pool.submit(answers, server, name) for _ in range(3)] for name in (None, "first")}
        for adapter in (LATER, AGAIN):
            path = adapter.write(tmp_path / str(adapter.seed), reference.model)
            answer = server.post("/load_lora_adapter", {"lora_name": "later", "lora_path": str(path)})
            assert set(answer["loaded_adapters"]) == {"first", "later"}
            require_exact(adapted(reference, adapter), answers(server, "later"))
            server.post("/unload_lora_adapter", {"lora_name": "later"})
    for name, model in ((None, reference), ("first", adapted(reference, FIRST))):
        for each in asked[name]:
            require_exact(model, each.result())
    with pytest.raises(requests.HTTPError, match="400"):
        server.generate(input_ids=PROMPTS[0], lora_path="unknown")


def test_the_model_of_an_openai_request_names_an_adapter(server: RunningServer, reference: Reference) -> None:
    text = "One request, one adapter."
    model = requests.get(f"{server.url}/v1/models", timeout=60).json()["data"][0]["id"]
    for name, expected in ((model, reference), (f"{model}:first", adapted(reference, FIRST))):
        asked = {"model": name, "prompt": text, "max_tokens": 8, "temperature": 0}
        answer = server.post("/v1/completions", asked)
        assert answer["choices"][0]["text"] == expected.text(ids_of(text), 8)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"use_rslora": True}, "use_rslora=True in adapter_config.json"),
        ({"use_dora": True}, "DoRA"),
        ({"r": 9}, "rank 9"),
    ],
    ids=str,
)
def test_an_adapter_that_would_be_applied_in_part_is_refused(
    server: RunningServer, reference: Reference, tmp_path: Path, config: dict[str, Any], reason: str
) -> None:
    path = LATER.write(tmp_path / "refused", reference.model, **config)
    with pytest.raises(requests.HTTPError, match=reason):
        server.post("/load_lora_adapter", {"lora_name": "refused", "lora_path": str(path)})
    require_exact(reference, answers(server, None))
