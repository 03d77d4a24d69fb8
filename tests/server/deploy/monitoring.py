"""A real Prometheus beside the shared server, its rules, and the queries of the dashboard."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from deploy.grafana.panels import ROWS
from sglang_speed.lab.common.local_server import own_ports

ROOT = Path(__file__).parents[3]
PROMETHEUS = ROOT / "deploy/prometheus"
PATIENCE_SECONDS = 120.0
JOB = "sglang-speed"
ANSWER_SECONDS = 30
VARIABLES = {"$__rate_interval": "1m", "$job": ".+", "$instance": ".+"}
"""What Grafana puts into a query; the job and the servers are `All`."""


def tool(name: str) -> str:
    """The path of a program of Debian's package `prometheus`; without it the test is skipped."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed: apt-get install prometheus")
    return path


def promtool(*arguments: str, cwd: Path = PROMETHEUS) -> str:
    """What it prints; its exit status must be 0."""
    ended = subprocess.run([tool("promtool"), *arguments], cwd=cwd, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@dataclass(frozen=True)
class RunningPrometheus:
    url: str

    def ask(self, path: str, **parameters: Any) -> Any:
        """`data` of an answer of its API."""
        answer = requests.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=ANSWER_SECONDS).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def values(self, expr: str, at: float | None = None) -> list[float]:
        """Of all series that a query gives, NaN left out."""
        found = self.ask("query", query=expr, **({} if at is None else {"time": at}))["result"]
        return [value for value in (float(each["value"][1]) for each in found) if not math.isnan(value)]

    def wait_for_scrapes(self, number: int) -> None:
        """Until so many more scrapes than there were have succeeded."""
        scrapes = f'sum_over_time(up{{job="{JOB}"}}[1h])'
        before = sum(self.values(scrapes))
        wait_until(lambda: sum(self.values(scrapes)) >= before + number)


@contextmanager
def running_prometheus(server_url: str, directory: Path) -> Iterator[RunningPrometheus]:
    """Prometheus with the kit's configuration and rules, on a loopback port; it scrapes a server each second."""
    program, (port, _) = tool("prometheus"), own_ports()
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = dict.fromkeys(("scrape_interval", "evaluation_interval"), "1s")
    config["rule_files"] = [str(PROMETHEUS / name) for name in config["rule_files"]]
    (job,) = config["scrape_configs"]
    job["static_configs"] = [{"targets": [server_url.removeprefix("http://")]}]
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [program, "--config.file=prometheus.yml", "--storage.tsdb.path=data", "--log.level=warn"]
    with (directory / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, f"--web.listen-address=127.0.0.1:{port}"], cwd=directory, stdout=log, stderr=log
        )
    try:
        prometheus = RunningPrometheus(f"http://127.0.0.1:{port}")
        wait_until(lambda: is_ready(prometheus))
        yield prometheus
    finally:
        process.kill()
        process.wait()


def is_ready(prometheus: RunningPrometheus) -> bool:
    try:
        return requests.get(f"{prometheus.url}/-/ready", timeout=ANSWER_SECONDS).ok
    except requests.ConnectionError:
        return False


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.2)


def dashboard_queries() -> dict[str, str]:
    """By row, panel and legend, as Grafana sends them."""
    return {
        f"{row}, {panel.title}, {query.legend}": _filled_in(query.expr, VARIABLES)
        for row, panels in ROWS.items()
        for panel in panels
        for query in panel.queries
    }


def _filled_in(expr: str, variables: Mapping[str, str]) -> str:
    for name, value in variables.items():
        expr = expr.replace(name, value)
    return expr


def alerts() -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / "rules.yml").read_text(encoding="utf-8"))["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def measures_of(expr: str) -> list[str]:
    """What an alert compares with its thresholds: the expression in parts, without comparisons."""
    parts = re.split(r"\b(?:and|or|unless)\b(?:\s+on\s*\([^)]*\))?", expr)
    return [re.sub(r"\s*(?:==|<|>)\s*[\d.]+\s*$", "", part).strip().removeprefix("absent") for part in parts]
