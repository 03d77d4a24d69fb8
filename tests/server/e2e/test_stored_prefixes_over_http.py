"""A prefix that one server left in files is a hit for the next one, without the anchors that only the first one had."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.host import IS_OLDEST
from tests.server.conftest import SERVER_ENV, SERVER_FLAGS
from tests.server.e2e.asking import LONG_TEXT, wait_until
from tests.server.e2e.reference_answers import Reference
from tests.server.servers import running_server
from tests.tiny_models import ids_of

pytestmark = [
    pytest.mark.slow,  # servers of its own
    pytest.mark.skipif(IS_OLDEST, reason="refused there, see test_refused_settings"),
]

TEXT, NUM_NEW, PAGE = LONG_TEXT * 5, 12, 16
FLAGS = (
    *("--page-size", str(PAGE), "--enable-cache-report", "--enable-metrics"),
    *("--enable-hierarchical-cache", "--hicache-ratio", "2"),
    *("--hicache-storage-backend", "file", "--hicache-storage-prefetch-policy", "wait_complete"),
)


def test_a_restarted_server_finds_what_was_stored_and_says_the_same(
    tiny_speed: Path, reference: Reference, tmp_path: Path
) -> None:
    store = json.dumps({"file_storage_path": str(tmp_path), "prefetch_threshold": 32})
    flags = (*SERVER_FLAGS, *FLAGS, "--hicache-storage-backend-extra-config", store)
    prompt_len, answers = len(ids_of(TEXT)), list[Any]()
    for _ in range(2):
        with running_server(tiny_speed, *flags, env=SERVER_ENV) as server:
            params = {"temperature": 0, "max_new_tokens": NUM_NEW}
            answers += [server.generate(text=TEXT, sampling_params=params) for _ in range(2)]
            wait_until(lambda: len(list(tmp_path.iterdir())) >= prompt_len // PAGE)
            assert server.is_alive, server.log[-6000:]
    assert {answer["text"] for answer in answers} == {reference.text(ids_of(TEXT), NUM_NEW)}
    cold, warm, stored, again = (answer["meta_info"]["cached_tokens"] for answer in answers)
    assert (cold, warm, again) == (0, stored, stored)
    assert stored >= prompt_len - 2 * PAGE
