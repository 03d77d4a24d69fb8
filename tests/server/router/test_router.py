"""Two workers behind sglang-router: exact, each chat beside its KV, and what happens when a worker dies."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import requests

from sglang_speed.lab.common import local_server
from tests import forked
from tests.server.conftest import REPORT_FLAGS, SERVER_ENV
from tests.server.e2e.asking import Asker, long_prompt, wait_until
from tests.server.e2e.reference_answers import Reference
from tests.server.examples.test_examples import CACHED, run
from tests.server.routers import Router, running_router
from tests.server.servers import START_SECONDS, RunningServer, launch, wait_until_ready

pytest.importorskip("sglang_router", reason="needs `pip install '.[router]'`")
pytestmark = pytest.mark.slow  # two servers, a router for each policy, a restarted worker

NUM_CHATS, NUM_TURNS = 8, 4
POOL_TOKENS = 2560
"""Of a worker: room for five of the chats."""
FLAGS = ("--dtype", "float32", "--chunked-prefill-size", "128", "--max-total-tokens", str(POOL_TOKENS), *REPORT_FLAGS)
BACK = ("--cb-failure-threshold", "3", "--cb-timeout-duration-secs", "2")
"""A worker that fails three times is left out at once, not after ten times, and is tried again after two seconds."""
SLOW_SECONDS = 0.05


class Workers:
    """Two servers of one model, each of which can be started again on its port."""

    def __init__(self, model: Path, directory: Path) -> None:
        self.model, self.directory = model, directory
        self.ports = [local_server.own_ports() for _ in range(2)]
        self.servers = [self._launch(0), self._launch(1)]
        self.wait()

    def _launch(self, index: int) -> RunningServer:
        log = self.directory / f"worker{index}-{time.monotonic()}.log"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(local_server, "own_ports", lambda: self.ports[index])
            return launch(self.model, FLAGS, {**SERVER_ENV, "OMP_NUM_THREADS": "1"}, log, forked.start)

    def wait(self) -> None:
        for server in self.servers:
            wait_until_ready(server, time.monotonic() + START_SECONDS)

    def start_again(self, index: int) -> None:
        self.servers[index] = self._launch(index)
        self.wait()

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self.servers]

    def flush(self) -> None:
        for server in self.servers:
            server.flush_cache()


@pytest.fixture(scope="module")
def workers(tiny_speed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    workers = Workers(tiny_speed, tmp_path_factory.mktemp("workers"))
    yield workers
    for server in workers.servers:
        server.stop()


def through(router: Router, workers: Workers, reference: Reference) -> Asker:
    """One that asks the router as if it were a server."""
    worker = workers.servers[0]
    return Asker(RunningServer(router.url, worker.process, worker.log_path), reference)


def test_answers_through_a_router_are_exact(workers: Workers, reference: Reference) -> None:
    with running_router(workers.urls, "--policy", "round_robin") as router:
        asker = through(router, workers, reference)
        prompts = [long_prompt(30 + 25 * index, start=f"{index} ") for index in range(4)]
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(asker.ask, prompts * 2))
        for prompt, answer in zip(prompts * 2, answers, strict=True):
            reference.require(prompt, answer["output_ids"])
        scored = asker.require_exact(prompts[2], 4, return_logprob=True, logprob_start_len=50)
        assert len(scored["meta_info"]["input_token_logprobs"]) == len(prompts[2]) - 50
        told = [state["config"] for url in router.workers() for state in speed_states(url)]
        assert told[0] == told[1], "workers of another depth would be found so"
        assert "sglang_speed" in requests.get(f"{router.url}/engine_metrics", timeout=60).text


def speed_states(url: str) -> list[dict[str, Any]]:
    return [state["speed"] for state in requests.get(f"{url}/server_info", timeout=60).json()["internal_states"]]


@dataclass
class Chats:
    """What all chats had: their answers, and for each turn but the first how many prompt tokens were cached, how many
    the turn before had, and how many it has."""

    answers: list[list[str]]
    turns: list[tuple[int, int, int]]

    @property
    def hit_rate(self) -> float:
        """The share of prompt tokens behind the first turn that was cached."""
        return sum(cached for cached, _, _ in self.turns) / sum(prompt for _, _, prompt in self.turns)

    @property
    def all_stayed(self) -> bool:
        """Whether each turn found all of the one before it."""
        return all(cached >= before for cached, before, _ in self.turns)


def hold_chats(url: str) -> Chats:
    """All chats at once, one turn after the other."""
    chats, turn_begins = Chats([], []), threading.Barrier(NUM_CHATS)

    def hold(chat: int) -> list[str]:
        name, answers, before = chr(ord("A") + chat), list[str](), 0
        messages = [{"role": "system", "content": f"{name * 120} knows everything about {name * 80}."}]
        for turn in range(NUM_TURNS):
            messages.append({"role": "user", "content": f"Question {turn} to {name}?"})
            turn_begins.wait()
            payload = {"model": "default", "messages": messages, "temperature": 0, "max_tokens": 16}
            answer = requests.post(f"{url}/v1/chat/completions", json=payload, timeout=600).json()
            cached, num_tokens = used(answer)
            if turn:
                chats.turns.append((cached, before, num_tokens))
            before = num_tokens
            answers.append(answer["choices"][0]["message"]["content"])
            messages.append({"role": "assistant", "content": answers[-1]})
        return answers

    with ThreadPoolExecutor(NUM_CHATS) as pool:
        chats.answers = list(pool.map(hold, range(NUM_CHATS)))
    return chats


def used(answer: Any) -> tuple[int, int]:
    """Prompt tokens of an answer that were cached, and all of them."""
    usage = answer["usage"]
    return (usage["prompt_tokens_details"] or {}).get("cached_tokens", 0), usage["prompt_tokens"]


def test_a_cache_aware_router_keeps_chats_beside_their_kv(workers: Workers) -> None:
    """One worker has room for some of the chats, two for all of them if no chat is on both."""
    workers.flush()
    found = {"one worker": hold_chats(workers.urls[0])}
    for policy in ("cache_aware", "round_robin", "random"):
        workers.flush()
        with running_router(workers.urls, "--policy", policy) as router:
            found[policy] = hold_chats(router.url)
    print({name: f"{chats.hit_rate:.0%}" for name, chats in found.items()})
    assert all(chats.answers == found["one worker"].answers for chats in found.values())
    assert [name for name, chats in found.items() if chats.all_stayed] == ["cache_aware"]


def test_the_example_reuses_every_chats_turns(workers: Workers) -> None:
    workers.flush()
    with running_router(workers.urls) as router:
        printed = run("06_router.py", router.url)
    turns = [(int(cached), int(prompt)) for cached, prompt in CACHED.findall(printed)]
    assert len(turns) == 9
    for chat in range(3):
        for (_, prompt_before), (cached, prompt) in pairwise(turns[chat::3]):
            assert prompt_before <= cached < prompt


def test_a_dead_worker_breaks_its_streams_only_and_comes_back(workers: Workers, reference: Reference) -> None:
    workers.flush()
    with running_router(workers.urls, *BACK) as router:
        asker = through(router, workers, reference)
        for server in workers.servers:
            server.post("/slow_down", {"forward_sleep_time": SLOW_SECONDS})
        streams = [Stream(asker, index) for index in range(4)]
        wait_until(lambda: all(stream.num_tokens >= 3 for stream in streams))
        with ThreadPoolExecutor(4) as pool:
            prompts = [long_prompt(40 + index, start=f"{index} whole ") for index in range(4)]
            whole = [pool.submit(asker.ask, prompt, 40) for prompt in prompts]
            time.sleep(10 * SLOW_SECONDS)
            workers.servers[1].stop()
        for prompt, answer in zip(prompts, whole, strict=True):  # the other worker gave them, from the start
            reference.require(prompt, answer.result()["output_ids"])
        broken = [stream for stream in streams if stream.is_broken()]
        assert 1 <= len(broken) < len(streams)
        for index in range(10):
            asker.require_exact(long_prompt(30, start=f"{index} later "), 1)
        wait_until(lambda: router.workers() == {workers.urls[0]: True, workers.urls[1]: False})
        workers.start_again(1)
        wait_until(lambda: all(router.workers().values()))
        workers.servers[0].stop()
        asker.require_exact(long_prompt(30, start="the other "), 4)


class Stream(threading.Thread):
    """A client that reads a long answer."""

    def __init__(self, asker: Asker, index: int) -> None:
        super().__init__(daemon=True)
        self.asker, self.prompt = asker, long_prompt(30, start=f"{index} stream ")
        self.num_tokens, self.error = 0, None
        self.start()

    def run(self) -> None:
        try:
            for event in self.asker.stream(self.prompt, 150):
                self.num_tokens = len(event["output_ids"])
        except requests.RequestException as error:
            self.error = error

    def is_broken(self) -> bool:
        """Whether it ended before its end; with an error, not as if that were all."""
        self.join()
        assert (self.error is None) == (self.num_tokens == 150), (self.error, self.num_tokens)
        return self.error is not None
