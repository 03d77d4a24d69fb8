"""Every field of every request with hostile values, alone and together: none ends or blocks the server."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence

import pytest
import requests

from tests.server.e2e.asking import Asker
from tests.server.e2e.hostile_requests import Hostile, hostile_mixtures, hostile_requests

SEED = 0
FEW = 300
MIXTURES = 3000
BETWEEN_PROBES = 20
SECONDS = 600.0
"""For one answer; the longest fill the context of 2048 tokens."""


def send(asker: Asker, hostile: Hostile) -> int:
    """The status of the answer; a closed connection or none in time is an error that names the request."""
    data, headers = json.dumps(hostile.payload), {"content-type": "application/json"}
    try:
        url = asker.server.url + hostile.path
        return requests.post(url, data=data, headers=headers, timeout=SECONDS).status_code
    except requests.RequestException as error:
        raise AssertionError(f"no answer to {hostile.name}: {error}\n{asker.server.log[-4000:]}") from error


def survive(asker: Asker, among: Sequence[Hostile]) -> None:
    """Send all of them, with exact answers in between, and say how many got which status."""
    statuses: Counter[int] = Counter()
    for index, hostile in enumerate(among):
        statuses[send(asker, hostile)] += 1
        if index % BETWEEN_PROBES == 0:
            asker.require_exact([0, 74, 107], 4)
    print(f"{len(among)} hostile requests, none lost: {dict(statuses)}")
    assert statuses[200]
    assert statuses[400]


def test_some_hostile_values_leave_the_server_exact(asker: Asker) -> None:
    survive(asker, random.Random(SEED).sample(hostile_requests(), FEW))


def test_some_hostile_mixtures_leave_the_server_exact(asker: Asker) -> None:
    survive(asker, hostile_mixtures(FEW, SEED))


@pytest.mark.slow
def test_all_hostile_values_leave_the_server_exact(asker: Asker) -> None:
    survive(asker, hostile_requests())


@pytest.mark.slow
def test_many_hostile_mixtures_leave_the_server_exact(asker: Asker) -> None:
    survive(asker, hostile_mixtures(MIXTURES, SEED + 1))
