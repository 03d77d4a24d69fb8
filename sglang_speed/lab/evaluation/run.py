"""An evaluation: full depth first, then every model, each with the measurements missing from its results.

Owns the order of events. Servers run only for missing results, and as many at a time as asked for.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

from sglang_speed.lab.common.chat import ChatFormat
from sglang_speed.lab.common.client import Client
from sglang_speed.lab.common.digest import digest_of
from sglang_speed.lab.common.local_server import LocalServer
from sglang_speed.lab.evaluation.measure import RESPONSES, Answers, ItemResult, Measurement, Responses
from sglang_speed.lab.evaluation.references import Reference, ReferenceFile, draw_references, prompts
from sglang_speed.lab.evaluation.results import Results
from sglang_speed.lab.evaluation.subjects import Subject, serving
from sglang_speed.lab.evaluation.tasks import TASKS
from sglang_speed.lab.evaluation.tasks.needle import Needle


@dataclass(frozen=True)
class Suite:
    """The requests to every model. tasks: names, may include `responses`. lengths: of the needle's texts, in words."""

    tasks: tuple[str, ...]
    num_samples: int
    seed: int
    lengths: tuple[int, ...]

    def answers(self, chat_format: ChatFormat) -> list[Answers]:
        """All tasks but the responses."""
        made = [Needle(self.lengths) if name == Needle.name else TASKS[name]() for name in self.tasks if name in TASKS]
        return [Answers(task, chat_format, self.seed, self.num_samples) for task in made]


Watch = Callable[[str, int], Callable[[], None]]
"""Called with a description and the number of items; returns a function to call after each item."""


class GivenUp(Exception):
    """Another model failed, or the user ended the run."""


@dataclass
class Evaluation:
    """logs: a folder for server logs and answers. watch: shows progress."""

    full_depth: Subject
    subjects: Sequence[Subject]
    suite: Suite
    chat_format: ChatFormat
    results: Results
    references: ReferenceFile
    logs: Path
    flags: Sequence[str]
    watch: Watch
    _servers: list[LocalServer] = field(default_factory=list)
    _is_given_up: Event = field(default_factory=Event)

    def run(self, num_servers: int = 1) -> None:
        """Measure whatever is missing from the results. Raises ServerFailed, ConfigError."""
        kept = self.references.read(self._made_for()) if RESPONSES in self.suite.tasks else []
        if kept and self.full_depth.url is not None:
            kept = None  # its weights may have changed
        if kept is not None:
            self._evaluate(self.full_depth, self._measurements(kept))
        else:
            with serving(self.full_depth, self.logs, self.flags, self._servers) as client:
                kept = self._draw(client)
                self._ask(client, self.full_depth, self._measurements(kept))
        measurements = self._measurements(kept)
        if num_servers > 1:
            self._evaluate_together(measurements, num_servers)
            return
        for subject in self.subjects:
            self._evaluate(subject, measurements)

    def _evaluate_together(self, measurements: Sequence[Measurement], num_servers: int) -> None:
        """Several models at a time; when one fails or the user ends the run, all servers are stopped."""
        pool = ThreadPoolExecutor(num_servers)
        evaluated = [pool.submit(self._evaluate, subject, measurements) for subject in self.subjects]
        try:
            for one in as_completed(evaluated):
                one.result()
        finally:
            self._is_given_up.set()
            pool.shutdown(wait=False, cancel_futures=True)
            for server in tuple(self._servers):
                server.stop()

    def _measurements(self, references: Sequence[Reference]) -> list[Measurement]:
        responses = [Responses(references)] if references else []
        return [*responses, *self.suite.answers(self.chat_format)]

    def _evaluate(self, subject: Subject, measurements: Sequence[Measurement]) -> None:
        if any(not self.results.has(subject, one) for one in measurements):
            with serving(subject, self.logs, self.flags, self._servers) as client:
                self._ask(client, subject, measurements)

    def _ask(self, client: Client, subject: Subject, measurements: Sequence[Measurement]) -> None:
        for one in measurements:
            if not self.results.has(subject, one):
                begin = time.perf_counter()
                found = self._watched(f"{subject.label}: {one.name}", len(one), one.ask(client, subject.tail_tokens))
                self.results.add(subject, one, found, self._baseline(subject, one), time.perf_counter() - begin)
                write_answers(self.logs / f"{subject.file_name}-{one.name}.jsonl", found)

    def _baseline(self, subject: Subject, measurement: Measurement) -> Mapping[str, Sequence[float]]:
        """The same items at full depth. Responses are compared with the log-probabilities from when they were drawn,
        even at full depth, where the difference is rounding."""
        if isinstance(measurement, Responses):
            return measurement.baseline()
        return {} if subject == self.full_depth else self.results.values(self.full_depth, measurement.name)

    def _draw(self, client: Client) -> list[Reference]:
        asked = prompts(self.chat_format, self.suite.seed, self.suite.num_samples)
        drawn = draw_references(client, asked)
        references = self._watched(f"{self.full_depth.label}: drawing responses", len(asked), drawn)
        self.references.write(self._made_for(), references)
        return references

    def _made_for(self) -> dict[str, str]:
        asked = prompts(self.chat_format, self.suite.seed, self.suite.num_samples)
        return {
            "model": self.full_depth.digest,
            "tokenizer": self.chat_format.digest,
            "prompts": digest_of([(prompt.ids, prompt.seed) for prompt in asked]),
        }

    def _watched(self, what: str, num_items: int, found: Generator[Any, None, None]) -> list[Any]:
        advance = self.watch(what, num_items)
        made = []
        with closing(found):
            for one in found:
                if self._is_given_up.is_set():
                    raise GivenUp
                made.append(one)
                advance()
        return made


def write_answers(path: Path, found: Sequence[ItemResult]) -> None:
    """Write the model's answers with their grades, for reading."""
    lines = [json.dumps({**one.group, **one.values, "answers": one.answers}) for one in found if one.answers]
    if lines:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
