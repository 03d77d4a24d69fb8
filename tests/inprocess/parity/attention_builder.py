"""Another attention backend of SGLang's than the CPU platform's own, for schedulers of this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import sglang.srt.model_executor.model_runner  # noqa: F401  its import registers the CPU platform's backend
from sglang.srt.layers.attention.attention_registry import ATTENTION_BACKENDS


@contextmanager
def attention_built_by(builder: Callable[[Any], Any]) -> Iterator[None]:
    """What SGLang calls torch_native, the one name that runs without an accelerator, is built by `builder`."""
    with mock.patch.dict(ATTENTION_BACKENDS, {"torch_native": builder}):
        yield
