"""The models that people serve most, over HTTP: a chat of three turns is what the reference says, and reuses its turns.

Every architecture goes through the scheduler in tests/inprocess/parity/test_every_architecture.py; here are those
processes that read a checkpoint on their own: tokenizer, detokenizer, launcher.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from tests import forked
from tests.catalogue import MODELS
from tests.quantized import FORMATS, quantize
from tests.server.conftest import REPORT_FLAGS, SERVER_ENV, SERVER_FLAGS
from tests.server.e2e.asking import Asker
from tests.server.e2e.reference_answers import Reference
from tests.server.e2e.test_openai_api import MAX_TOKENS, QUESTIONS, chat, templated
from tests.server.e2e.test_several_ranks import require_exact_batches
from tests.server.servers import running_server
from tests.tiny_models import make_tiny_model

pytestmark = pytest.mark.slow  # a server for each, half a minute to start on two cores

SPEED = {"prefill_layers": 6, "anchor_tokens": 1, "tail_tokens": 3}


def checkpoint(directory: Path, model: str) -> Path:
    return make_tiny_model(directory, **MODELS[model], speed=SPEED)


def require_exact_chat(path: Path, reference: Reference) -> None:
    with running_server(path, *SERVER_FLAGS, *REPORT_FLAGS, env=SERVER_ENV) as server:
        asker = Asker(server, reference)
        client = OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=600, max_retries=0)
        messages: list[Any] = []
        num_before = 0
        for question in QUESTIONS[:3]:
            messages.append({"role": "user", "content": question})
            answer = chat(client, messages)
            content = answer.choices[0].message.content
            assert content == reference.text(templated(asker, messages), MAX_TOKENS)
            cached = answer.usage.prompt_tokens_details
            assert (cached.cached_tokens if cached else 0) >= num_before - 1
            num_before = answer.usage.prompt_tokens + MAX_TOKENS
            messages.append({"role": "assistant", "content": content})
        assert asker.is_idle()


@pytest.mark.parametrize("model", ["qwen3", "qwen3_moe", "mistral", "gemma3_text", "gpt_oss", "deepseek_v3"])
def test_a_chat_of_three_turns_is_exact(model: str, tmp_path: Path) -> None:
    require_exact_chat(checkpoint(tmp_path, model), Reference(tmp_path))


@pytest.mark.parametrize("form", ["gptq", "fp8"])
def test_a_chat_with_a_converted_quantized_checkpoint_is_exact(form: str, tmp_path: Path) -> None:
    plain = make_tiny_model(tmp_path / "plain", **MODELS["llama"])
    quantized = quantize(plain, tmp_path / "quantized", FORMATS[form])
    for source in (plain, quantized):  # the plain one has what the other one's weights stand for
        to = (source, source.with_name(f"{source.name}-speed"))
        made = forked.run("-m", "sglang_speed.lab.cli", "convert", *to, "--prefill-layers", "6", "--tail-tokens", "3")
        assert made.returncode == 0, made.stderr
    require_exact_chat(tmp_path / "quantized-speed", Reference(tmp_path / "plain-speed"))


@pytest.mark.parametrize("model", ["qwen3", "qwen3_moe"])
def test_two_tensor_parallel_ranks_are_exact(model: str, tmp_path: Path) -> None:
    """No rank leaves a sum over ranks to a layer of the band above, which runs on other rows."""
    reference = Reference(checkpoint(tmp_path, model))
    with running_server(tmp_path, *SERVER_FLAGS, "--tp-size", "2", env=SERVER_ENV, in_new_interpreter=True) as server:
        require_exact_batches(Asker(server, reference))
