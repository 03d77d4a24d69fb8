"""An fp8 KV cache in both bands: on a GPU against the reference that rounds what each backend rounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.catalogue import BACKENDS
from tests.gpu.float16_fp8 import SETTINGS, Float16Expected
from tests.gpu.test_exactness import require_backends
from tests.inprocess.parity.rounded_reference import DTYPES
from tests.scheduler_harness import running_scheduler


@pytest.mark.parametrize("kv_dtype", DTYPES)
def test_answers_are_the_rounded_references(
    settings: dict[str, Any], backend: str, graphs: str, kv_dtype: str, tmp_path: Path
) -> None:
    expected = Float16Expected(tmp_path, kv_dtype, {}, BACKENDS[backend].rounds)
    with running_scheduler(expected.path, kv_cache_dtype=kv_dtype, **settings | SETTINGS) as engine:
        require_backends(engine, backend, graphs)
        expected.answered_cold_and_warm(engine)
