"""A tiny checkpoint whose layers are measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sglang_speed.lab.cutoff.model import load_model
from sglang_speed.lab.cutoff.request import Request
from sglang_speed.reference.modeling import SpeedLlamaForCausalLM
from tests.one_thread import one_thread  # noqa: F401
from tests.tiny_models import CHAT_TEMPLATE, ids_of, make_tiny_model

NUM_LAYERS = 4
TAIL_TOKENS = 3


@pytest.fixture(scope="session")
def plain_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = make_tiny_model(
        tmp_path_factory.mktemp("plain"), num_layers=NUM_LAYERS, hidden_size=32, num_heads=4, num_kv_heads=2, head_dim=8
    )
    template = CHAT_TEMPLATE.replace("\n", "{{ eos_token }}")  # turns that end with a token of their own
    (directory / "chat_template.jinja").write_text(template, encoding="utf-8")
    return directory


@pytest.fixture
def model(plain_directory: Path) -> SpeedLlamaForCausalLM:
    """In float64, for derivatives; a test may change its weights."""
    return load_model(plain_directory, anchor_tokens=1, tail_tokens=TAIL_TOKENS).double()


@pytest.fixture(scope="session")
def request_of_text() -> Request:
    prompt = ids_of("A prompt that has a gap.")
    return Request((*prompt, *ids_of("The response.")[1:]), len(prompt))


def write_chats(path: Path, *chats: list[tuple[str, str]]) -> Path:
    """A JSONL file. chats: (role, content) of every message."""
    lines = [json.dumps({"messages": [{"role": role, "content": text} for role, text in chat]}) for chat in chats]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path
