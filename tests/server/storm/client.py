"""The storm's client of one server. Many threads use one; every request becomes one outcome per answer."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from queue import SimpleQueue
from typing import Any

import requests

from tests.server.servers import RunningServer
from tests.server.storm.questions import End, Outcome, Question

ANSWER_SECONDS = 600.0
"""A request without an answer for so long hangs."""

END_OF_STATUS: dict[int, End] = {400: "refused", 499: "aborted"}
"""499: an aborted request with n > 1."""
ABORTED_WHILE_COMPILING = "Aborted by AbortReq."
"""In a 400: the abort came while the request's grammar was compiled (`GrammarManager.abort_requests`)."""


class Client:
    """Asks, and puts what came back into `outcomes`."""

    def __init__(self, server: RunningServer, outcomes: SimpleQueue[Outcome]) -> None:
        self.server = server
        self.outcomes = outcomes
        self.last_abort_of_all = float("-inf")
        self.abort_lock = threading.Lock()

    def ask(self, kind: str, question: Question, may: Collection[End] = (), **fields: Any) -> list[int] | None:
        """The answer's tokens, None unless it finished. may: further ends that are no errors."""
        return self.ask_all(kind, [question], question.payload() | fields, may)[0]

    def ask_together(self, kind: str, questions: Sequence[Question]) -> list[list[int] | None]:
        """One HTTP request with several prompts."""
        payloads = [question.payload() for question in questions]
        together = {name: [payload[name] for payload in payloads] for name in ("input_ids", "sampling_params")}
        return self.ask_all(kind, questions, payloads[0] | together, ())

    def ask_often(self, kind: str, question: Question, num_answers: int) -> list[list[int] | None]:
        """One prompt, several answers."""
        payload = question.payload()
        payload["sampling_params"]["n"] = num_answers
        return self.ask_all(kind, [question] * num_answers, payload, ())

    def ask_all(
        self, kind: str, questions: Sequence[Question], payload: dict[str, Any], may: Collection[End]
    ) -> list[list[int] | None]:
        """POST, and report an outcome for each question."""
        started = time.monotonic()
        try:
            response = requests.post(f"{self.server.url}/generate", json=payload, timeout=ANSWER_SECONDS)
        except requests.RequestException as error:
            return [self.report(kind, question, "failed", False, words=str(error)) for question in questions]
        if not response.ok:
            end = END_OF_STATUS.get(response.status_code, "failed")
            if ABORTED_WHILE_COMPILING in response.text:
                end = "aborted"
            words = f"{response.status_code}: {response.text[:500]}"
            is_foreseen = self.is_foreseen(end, may, started)
            return [self.report(kind, question, end, is_foreseen, words=words) for question in questions]
        answers = response.json()
        answers = answers if isinstance(answers, list) else [answers]
        return [
            self.report_answer(kind, question, answer, may, started)
            for question, answer in zip(questions, answers, strict=True)
        ]

    def report_answer(
        self, kind: str, question: Question, answer: Any, may: Collection[End], started: float
    ) -> list[int] | None:
        reason = answer["meta_info"]["finish_reason"]
        end: End = "aborted" if reason["type"] == "abort" else "finished"
        return self.report(kind, question, end, self.is_foreseen(end, may, started), answer, words=str(reason))

    def is_foreseen(self, end: End, may: Collection[End], started: float) -> bool:
        """Whether a request may end so that was sent at `started`; an abort of all requests can stop any."""
        return end == "finished" or end in may or (end == "aborted" and self.last_abort_of_all >= started)

    def report(
        self, kind: str, question: Question, end: End, is_foreseen: bool = True, answer: Any = None, words: str = ""
    ) -> list[int] | None:
        answer = answer or {"output_ids": [], "meta_info": {}}
        output = answer["output_ids"]
        self.outcomes.put(Outcome(kind, question, end, is_foreseen, tuple(output), answer["meta_info"], words))
        return output if end == "finished" else None

    def abort(self, rid: str) -> None:
        self.control("/abort_request", {"rid": rid})

    def abort_all(self) -> None:
        """Everything that waits or runs."""
        with self.abort_lock:
            self.last_abort_of_all = float("inf")  # until the server has confirmed it
            self.control("/abort_request", {"abort_all": True})
            self.last_abort_of_all = time.monotonic()

    def ask_and_abort(self, kind: str, question: Question, rid: str, seconds: float) -> None:
        """Abort a request so long after it was sent; it may be waiting, in mid-prefill, running or done."""
        timer = threading.Timer(seconds, self.abort, [rid])
        timer.start()
        self.ask(kind, question, may=("aborted",), rid=rid)
        timer.join()

    def read_and_leave(self, kind: str, question: Question, num_events: int) -> None:
        """Read so many events of a stream and close the connection."""
        read: Any = None
        try:
            with closing(self.stream(question)) as events:
                for count, event in enumerate(events, 1):
                    read = event if read is None or has_all_tokens(event) else read
                    if count >= num_events:
                        break
        except requests.RequestException as error:
            self.report(kind, question, "failed", False, words=str(error))
            return
        is_answer = read is not None and "output_ids" in read
        if is_answer and not has_all_tokens(read):
            read = {**read, "output_ids": []}
        self.report(kind, question, "disconnected" if is_answer else "failed", is_answer, read, words=str(read))

    def wait_and_leave(self, kind: str, question: Question, seconds: float) -> None:
        """Close the connection of an ordinary request after so long, if it has no answer by then."""
        started = time.monotonic()
        try:
            url, payload = f"{self.server.url}/generate", question.payload()
            response = requests.post(url, json=payload, timeout=(ANSWER_SECONDS, seconds))
        except requests.ReadTimeout:
            self.report(kind, question, "disconnected")
        except requests.RequestException as error:
            self.report(kind, question, "failed", False, words=str(error))
        else:
            self.report_answer(kind, question, response.json(), (), started)

    def stream(self, question: Question) -> Iterator[Any]:
        """The events of a streamed answer; each has all tokens so far."""
        payload = question.payload() | {"stream": True}
        url = f"{self.server.url}/generate"
        with requests.post(url, json=payload, stream=True, timeout=ANSWER_SECONDS) as response:
            for line in response.iter_lines():
                data = line.removeprefix(b"data: ")
                if data and data != b"[DONE]":
                    yield json.loads(data)

    def model_path(self) -> str:
        """Of the checkpoint that is served."""
        path: str = requests.get(f"{self.server.url}/model_info", timeout=ANSWER_SECONDS).json()["model_path"]
        return path

    def control(self, path: str, payload: dict[str, Any] | None = None) -> bool:
        """POST to an endpoint that is not a request; whether it said yes."""
        try:
            return requests.post(self.server.url + path, json=payload or {}, timeout=ANSWER_SECONDS).ok
        except requests.RequestException:
            return False  # where the server died, the requests report it


def has_all_tokens(event: Any) -> bool:
    """Whether an event of a stream has all tokens so far. That of a stream which is aborted while it waits has the last
    one only (`TokenizerManager._handle_abort_req`)."""
    return len(event.get("output_ids", ())) == event.get("meta_info", {}).get("completion_tokens")
