"""What the tests of training share: a tiny chat model, its format, and files of chats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sglang_speed.lab.common.chat import ChatFormat
from tests.one_thread import one_thread  # noqa: F401
from tests.tiny_models import make_tiny_model
from tests.unit.training.chats import SHAPE, TEMPLATE, chat_format_of

MakeModel = Callable[..., Path]


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    """A plain checkpoint of four layers whose chat template ends each message with `<eos>`."""

    def make(template: str = TEMPLATE, **shape: Any) -> Path:
        directory = make_tiny_model(tmp_path_factory.mktemp("llama"), **(SHAPE | shape))
        (directory / "chat_template.jinja").write_text(template, encoding="utf-8")
        return directory

    return make


@pytest.fixture(scope="session")
def llama(make_model: MakeModel) -> Path:
    return make_model()


@pytest.fixture(scope="session")
def chat_format() -> ChatFormat:
    return chat_format_of()
