"""A client of one server, on SGLang's native /generate. The same for a stock Llama and a SPEED model."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import requests

from sglang_speed.errors import ConfigError
from sglang_speed.lab.common.local_server import ServerFailed

CONCURRENCY = 64
TIMEOUT_SECONDS = 90
GENERATION_SECONDS = 3600

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class RequestFailed(ServerFailed):
    """A request was refused or not answered in full; the text has the server's message."""


@dataclass(frozen=True)
class Score:
    """Scores of given tokens: the log-probability of each, and the most likely token at its position."""

    logprobs: tuple[float, ...]
    best: tuple[int, ...]


class Client:
    """concurrency: requests at a time."""

    def __init__(self, url: str, concurrency: int = CONCURRENCY) -> None:
        self.url = url.rstrip("/")
        self.concurrency = concurrency

    def info(self) -> dict[str, Any]:
        """/server_info. Raises ConfigError if no SGLang server answers."""
        try:
            info: dict[str, Any] = self.get("/server_info").json()
        except (ServerFailed, ValueError) as error:
            raise ConfigError(
                f"{self.url} does not answer as an SGLang server ({error.__cause__ or error}): start one, e.g. "
                "`python -m sglang.launch_server --model speed-llama`, and give its address, e.g. http://127.0.0.1:30000"
            ) from error
        return info

    def generate(self, prompt: Sequence[int], max_new_tokens: int, **sampling: Any) -> list[int]:
        """Generate token ids, the end token included. Greedy unless `sampling` says otherwise."""
        return self._generate(prompt, max_new_tokens, **sampling)["output_ids"]

    def write(self, prompt: Sequence[int], max_new_tokens: int, **sampling: Any) -> str:
        """Generate text, without the end token."""
        return str(self._generate(prompt, max_new_tokens, **sampling)["text"]).strip()

    def score(self, context: Sequence[int], response: Sequence[int], tail_tokens: int) -> Score:
        """Score a response as if this server had generated it after the context.

        All tokens from `logprob_start_len` on pass all layers, so it must be where the context's tail begins in
        generation. Started later, the tail would be shorter than the served one.
        """
        ids = [*context, *response]
        start = max(0, len(context) - tail_tokens)
        scored = {"return_logprob": True, "logprob_start_len": start, "top_logprobs_num": 1}
        payload = {"input_ids": ids, "sampling_params": {"temperature": 0, "max_new_tokens": 0}, **scored}
        meta = self.post("/generate", payload, GENERATION_SECONDS).json()["meta_info"]
        own, best = meta["input_token_logprobs"], meta["input_top_logprobs"]
        # not by their ids: SGLang returns the last id of a vocabulary as 0 (logprob_result_processor.py)
        assert len(own) == len(best) == len(ids) - start, f"{len(own)} scores of {len(ids)} tokens from {start} on"
        last = len(response)
        return Score(tuple(entry[0] for entry in own[-last:]), tuple(entries[0][1] for entries in best[-last:]))

    def each(
        self, ask: Callable[[Item], Answer], items: Iterable[Item], at_once: int | None = None
    ) -> Generator[Answer, None, None]:
        """`ask(item)` for every item, `at_once` or `concurrency` at a time; results in the order of the items. When it
        is given up, it does not wait for what runs."""
        pool = ThreadPoolExecutor(at_once or self.concurrency)
        try:
            yield from pool.map(ask, items)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def get(self, path: str) -> requests.Response:
        """Raises ServerFailed if nothing answers, RequestFailed for an error status."""
        return self._send("GET", path, None, TIMEOUT_SECONDS)

    def post(
        self, path: str, payload: Mapping[str, Any] | None = None, seconds: float = TIMEOUT_SECONDS
    ) -> requests.Response:
        """The same. payload: sent as JSON."""
        return self._send("POST", path, payload, seconds)

    def _generate(self, prompt: Sequence[int], max_new_tokens: int, **sampling: Any) -> dict[str, Any]:
        params = {"temperature": 0, "max_new_tokens": max_new_tokens, **sampling}
        payload = {"input_ids": list(prompt), "sampling_params": params}
        return self.post("/generate", payload, GENERATION_SECONDS).json()

    def _send(self, method: str, path: str, payload: Mapping[str, Any] | None, seconds: float) -> requests.Response:
        try:
            answer = requests.request(method, f"{self.url}{path}", json=payload, timeout=seconds)
        except requests.RequestException as error:
            raise ServerFailed(f"{self.url} does not answer ({error})") from error
        if not answer.ok:
            raise RequestFailed(f"{self.url} answered {answer.status_code}: {answer.text[:2000]}")
        return answer
