"""The results file: the value of every item of each model and task, and the estimates from them.

Written after each task, so that an interrupted run continues: the same items are not run again on the same model.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from threading import Lock
from typing import Any

from sglang_speed.checkpoints.atomic import new_file
from sglang_speed.errors import ConfigError
from sglang_speed.lab.common.provenance import provenance
from sglang_speed.lab.common.statistics import Estimate, difference, ratio
from sglang_speed.lab.evaluation.measure import RESPONSES, ItemResult, Measurement
from sglang_speed.lab.evaluation.subjects import Subject

Baseline = Mapping[str, Sequence[float]]
DIGITS = 6


class Results:
    """path: None keeps the results in memory. suite: settings common to all models, e.g. the seed; `full_depth` is the
    digest of the full-depth model.

    Raises ConfigError if the file has another suite.
    """

    def __init__(self, path: Path | None, suite: Mapping[str, Any]) -> None:
        self.path = path
        self._lock = Lock()
        self.data: dict[str, Any] = {"suite": dict(suite), "runs": [], "models": []}
        if path is not None and path.exists():
            self.data = read_results(path)
            require_same_suite(path, self.data["suite"], suite)

    @property
    def models(self) -> list[dict[str, Any]]:
        return self.data["models"]

    def has(self, subject: Subject, measurement: Measurement) -> bool:
        """Whether the results are there. Never for a running server, whose model may have changed."""
        task = self._task(subject, measurement.name)
        return subject.url is None and task is not None and task["digest"] == measurement.digest

    def values(self, subject: Subject, name: str) -> Baseline:
        """The values of all items by metric; empty if not measured."""
        task = self._task(subject, name)
        return {} if task is None else task["values"]

    def add(
        self,
        subject: Subject,
        measurement: Measurement,
        found: Sequence[ItemResult],
        baseline: Baseline,
        seconds: float,
    ) -> None:
        """Add a task's results with estimates, and write the file. baseline: the same items at full depth, or empty."""
        task = {
            "digest": measurement.digest,
            "seconds": round(seconds, 1),
            "estimates": {},
            "groups": groups(found),
            "drawn_together": measurement.drawn_together,
            "weights": [one.weight for one in found],
            "values": {metric: [rounded(one.values[metric]) for one in found] for metric in found[0].values},
        }
        task["estimates"] = estimates(measurement.name, task, baseline)
        with self._lock:  # several models are measured at a time
            task["run"] = self._run()
            self._entry(subject)["tasks"][measurement.name] = task
            if subject.digest == self.data["suite"]["full_depth"]:
                self._compare_again(measurement.name, task)
            self.write()

    def _compare_again(self, name: str, full_depth: Mapping[str, Any]) -> None:
        """Compare the other models with new answers of full depth. Responses have their own baseline."""
        if name == RESPONSES:
            return
        for model in self.models:
            task = model["tasks"].get(name)
            if task is not None and task is not full_depth and task["digest"] == full_depth["digest"]:
                task["estimates"] = estimates(name, task, full_depth["values"])

    def write(self) -> None:
        """Replace the file atomically."""
        if self.path is not None:
            with new_file(self.path) as half_written:
                half_written.write_text(compact_json(self.data), encoding="utf-8")

    def _run(self) -> int:
        """Index of this commit, machine and versions in `runs`."""
        here = provenance()
        if here not in self.data["runs"]:
            self.data["runs"].append(here)
        return int(self.data["runs"].index(here))

    def _entry(self, subject: Subject) -> dict[str, Any]:
        entry = next((one for one in self.models if one["digest"] == subject.digest), None)
        if entry is None:
            entry = {"digest": subject.digest, "tasks": {}}
            self.models.append(entry)
        speed = None if subject.speed is None else asdict(subject.speed)
        source = subject.url or Path(subject.source).name
        entry.update(name=subject.name, label=subject.label, source=source, speed=speed)
        return entry

    def _task(self, subject: Subject, name: str) -> dict[str, Any] | None:
        entry = next((one for one in self.models if one["digest"] == subject.digest), None)
        return None if entry is None else entry["tasks"].get(name)


def read_results(path: Path) -> dict[str, Any]:
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not {"suite", "runs", "models"} <= set(data):
            raise ValueError("it has no `suite`, `runs` and `models`")
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path} is not a results file of eval ({error}): choose another file") from error
    return data


def require_same_suite(path: Path, found: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    for key, value in asked.items():
        if found.get(key) != value:
            raise ConfigError(
                f"{path} has results for {key} {found.get(key)!r}, not {value!r}: results of different suites cannot "
                "be compared; choose another --json, or the same options"
            )


def estimates(name: str, task: Mapping[str, Any], baseline: Baseline) -> dict[str, dict[str, Any]]:
    """By metric: the value and its difference to full depth, each with its standard error."""
    weights, drawn_together = task["weights"], task["drawn_together"]
    made: dict[str, dict[str, Any]] = {}
    for metric, values in task["values"].items():
        made[metric] = {"num": len(values), **_named("", ratio(values, weights, drawn_together))}
        if metric in baseline:
            made[metric] |= _named("difference", difference(values, baseline[metric], weights, drawn_together))
    if name == RESPONSES:
        made["perplexity"] = perplexity(made["logprob"])
    return made


def perplexity(logprob: Mapping[str, Any]) -> dict[str, Any]:
    """From the mean log-probability. `ratio` is to full depth; its logarithm estimates KL(full depth || model)."""
    value = math.exp(-logprob["value"])
    made = {"num": logprob["num"], "value": value, "stderr": _times(value, logprob["stderr"])}
    if "difference" in logprob:
        times = math.exp(-logprob["difference"])
        made |= {"ratio": times, "ratio_stderr": _times(times, logprob["difference_stderr"])}
        made |= {"kl": -logprob["difference"], "kl_stderr": logprob["difference_stderr"]}
    return {key: rounded(number) for key, number in made.items()}


def groups(found: Sequence[ItemResult]) -> list[dict[str, Any]]:
    """The mean of every metric for each group of items, e.g. each cell of the needle's grid."""
    kinds: dict[tuple[Any, ...], list[ItemResult]] = {}
    for one in found:
        kinds.setdefault(tuple(one.group.items()), []).append(one)
    return [
        {**dict(kind), "num": len(some), **{metric: _mean(some, metric) for metric in some[0].values}}
        for kind, some in sorted(kinds.items())
        if kind
    ]


def compact_json(data: Any) -> str:
    """Indented, with lists of numbers on one line."""
    text = json.dumps(data, indent=1)
    return re.sub(r"\[[\s\d.,eE+-]*\]", lambda found: re.sub(r"\s+", " ", found[0]), text) + "\n"


def rounded(number: float | None) -> float | None:
    return None if number is None else round(number, DIGITS)


def _named(name: str, estimate: Estimate) -> dict[str, float | None]:
    first, second = (name, f"{name}_stderr") if name else ("value", "stderr")
    return {first: rounded(estimate.value), second: rounded(estimate.stderr)}


def _times(value: float, stderr: float | None) -> float | None:
    """Propagate the standard error of x to exp(x) = value."""
    return None if stderr is None else value * stderr


def _mean(some: Iterable[ItemResult], metric: str) -> float | None:
    some = list(some)
    return rounded(ratio([one.values[metric] for one in some], [one.weight for one in some]).value)
