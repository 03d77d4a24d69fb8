"""Greedy requests to the shared server, compared with the reference."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import requests

from tests.server.e2e.reference_answers import LOGPROB_ATOL, Reference
from tests.server.servers import RunningServer
from tests.tiny_models import ids_of

NUM_NEW = 16
PATIENCE_SECONDS = 300.0
"""For what takes seconds, so that a busy machine fails no test; what never comes fails it then."""
LONG_TEXT = "Prompt tokens pass the lower layers only; what is generated passes all of them. "


@dataclass(frozen=True)
class Asker:
    """A server and what it should answer."""

    server: RunningServer
    reference: Reference

    def ask(
        self, prompt: Any, num_tokens: int = NUM_NEW, sampling: Mapping[str, Any] | None = None, **fields: Any
    ) -> Any:
        """The JSON answer of /generate. prompt: token ids, or a list of such."""
        params = {"temperature": 0, "max_new_tokens": num_tokens, **(sampling or {})}
        return self.server.generate(input_ids=prompt, sampling_params=params, **fields)

    def require_exact(self, prompt: Sequence[int], num_tokens: int = NUM_NEW, **fields: Any) -> Any:
        """Ask, require the reference's tokens, and return the answer."""
        answer = self.ask(prompt, num_tokens, **fields)
        assert len(answer["output_ids"]) == num_tokens, answer
        self.reference.require(prompt, answer["output_ids"], scored_from(fields, prompt))
        return answer

    def stream(self, prompt: Sequence[int], num_tokens: int = NUM_NEW, **fields: Any) -> Iterator[Any]:
        """The JSON events of a streamed answer; closing the iterator closes the connection."""
        params = {"temperature": 0, "max_new_tokens": num_tokens}
        payload = {"input_ids": prompt, "sampling_params": params, "stream": True, **fields}
        url = f"{self.server.url}/generate"
        with requests.post(url, json=payload, stream=True, timeout=PATIENCE_SECONDS) as response:
            for line in response.iter_lines():
                data = line.removeprefix(b"data: ")
                if data and data != b"[DONE]":
                    yield json.loads(data)

    def speed_states(self) -> list[dict[str, int]]:
        """The `speed` object of /server_info, for each data parallel rank."""
        info = requests.get(f"{self.server.url}/server_info", timeout=60).json()
        return [state["speed"] for state in info["internal_states"]]

    def speed_state(self) -> dict[str, int]:
        return self.speed_states()[0]

    def is_idle(self) -> bool:
        """Whether the deep band holds nothing but anchors, on every rank."""
        return all(state["deep_tokens_used"] == state["deep_anchor_tokens"] for state in self.speed_states())

    def num_decoded(self) -> int:
        """Tokens decoded since the start, those of stopped requests included."""
        text = requests.get(f"{self.server.url}/metrics", timeout=60).text
        counts = re.findall(r'^sglang:realtime_tokens_total{.*mode="decode".*} (\S+)$', text, re.MULTILINE)
        return int(sum(map(float, counts)))

    @contextmanager
    def slowed_down(self, step_seconds: float) -> Iterator[None]:
        """Let each step take at least so long, so that what should happen meanwhile does so on any machine."""
        self.server.post("/slow_down", {"forward_sleep_time": step_seconds})
        try:
            yield
        finally:
            self.server.post("/slow_down", {"forward_sleep_time": 0})


def scored_from(fields: Mapping[str, Any], prompt: Sequence[int]) -> int | None:
    """First scored position of a request with these fields, None where it scores no input."""
    start = fields.get("logprob_start_len", -1) if fields.get("return_logprob") else -1
    return start if 0 <= start < len(prompt) else None


def long_prompt(num_tokens: int, start: str = "") -> list[int]:
    """A prompt of text; `start` makes it differ from others."""
    text = start + LONG_TEXT * (num_tokens // len(LONG_TEXT) + 1)
    return ids_of(text)[:num_tokens]


def wait_until(condition: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
    """Return as soon as `condition` holds; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.1)


def require_close(found: Sequence[float], expected: Sequence[float]) -> None:
    assert found == pytest.approx(expected, abs=LOGPROB_ATOL)
