"""Prometheus scrapes the shared server: each query of the dashboard and each alert's measure finds its metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import requests
import yaml

from deploy.grafana.queries import BYTES_AS_SERVED, BYTES_AT_FULL_DEPTH
from tests.server.conftest import DEEP_TOKENS, MAX_TOTAL_TOKENS, SPEED
from tests.server.deploy.monitoring import (
    JOB,
    PROMETHEUS,
    RunningPrometheus,
    alerts,
    dashboard_queries,
    measures_of,
    running_prometheus,
    wait_until,
)
from tests.server.e2e.asking import long_prompt
from tests.server.servers import RunningServer

QUERIES = dashboard_queries()
MEASURES = {f"{alert}, {part}": part for alert, rule in alerts().items() for part in measures_of(rule["expr"])}
PROMPT = long_prompt(100)
BYTES_PER_LAYER = 2 * 2 * 16 * 4


@dataclass(frozen=True)
class Scraped:
    """at: seconds since the epoch when the load was over and had been scraped."""

    prometheus: RunningPrometheus
    server: RunningServer
    at: float

    def values(self, expr: str) -> list[float]:
        return self.prometheus.values(expr, self.at)

    def value(self, query: str) -> float:
        (value,) = self.values(QUERIES[query])
        return value


@pytest.fixture(scope="module")
def scraped(shared_server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    """A server that was asked for some seconds, streamed and not, with new prompts and with one that is known."""
    shared_server.flush_cache()
    with running_prometheus(shared_server.url, tmp_path_factory.mktemp("prometheus")) as prometheus:
        prometheus.wait_for_scrapes(2)
        for number in range(3):
            prompts = (PROMPT, PROMPT, long_prompt(90, str(number)))
            with ThreadPoolExecutor(3) as pool:
                list(pool.map(lambda prompt: complete(shared_server, prompt), prompts))
            prometheus.wait_for_scrapes(1)
        prometheus.wait_for_scrapes(2)
        yield Scraped(prometheus, shared_server, time.time())


def complete(server: RunningServer, prompt: list[int]) -> None:
    """An answer of 16 tokens as a stream, then one in one piece."""
    for stream in (True, False):
        payload = {"model": "tiny", "prompt": prompt, "max_tokens": 16, "temperature": 0, "stream": stream}
        answer = requests.post(f"{server.url}/v1/completions", json=payload, timeout=120)
        assert answer.ok, answer.text


@pytest.mark.parametrize("query", QUERIES)
def test_each_query_of_the_dashboard_has_data(scraped: Scraped, query: str) -> None:
    assert scraped.values(QUERIES[query])


@pytest.mark.parametrize("measure", MEASURES)
def test_what_each_alert_measures_has_data(scraped: Scraped, measure: str) -> None:
    assert scraped.values(MEASURES[measure])


def test_autoscaling_finds_the_requests_that_wait(scraped: Scraped) -> None:
    """The rule of prometheus-adapter, with what that fills in; the series it starts from are those of pods."""
    (rule,) = yaml.safe_load((PROMETHEUS / "adapter.yml").read_text(encoding="utf-8"))["rules"]
    filled_in = {
        "Series": rule["seriesQuery"].partition("{")[0],
        "LabelMatchers": f'job="{JOB}"',
        "GroupBy": "instance",
    }
    expr = rule["metricsQuery"]
    for name, value in filled_in.items():
        expr = expr.replace(f"<<.{name}>>", value)
    assert scraped.values(expr) == [0]


def test_prometheus_evaluates_each_rule_and_a_healthy_server_raises_none(scraped: Scraped) -> None:
    """How fast it is depends on the machine."""
    rules = [rule for group in scraped.prometheus.ask("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"]: rule["health"] for rule in rules} == dict.fromkeys(alerts(), "ok")
    assert not {rule["name"] for rule in rules if rule["state"] != "inactive"} - {"SglangFirstTokenSlow"}


def test_facts_of_the_dashboard_are_those_of_the_model(scraped: Scraped) -> None:
    full, prompt = 8 * BYTES_PER_LAYER, 6 * BYTES_PER_LAYER
    total = (MAX_TOTAL_TOKENS + 1) * prompt + (DEEP_TOKENS + 1) * (full - prompt)
    found = {query: scraped.value(query) for query in QUERIES if query.startswith("Now, ")}
    assert found["Now, Servers that answer, servers"] == 1
    assert found["Now, Layers: prompt, model, prompt"] == SPEED["prefill_layers"]
    assert found["Now, Layers: prompt, model, model"] == 8
    assert found["Now, KV of a prompt token, of full depth"] == 0.75
    assert found["Now, Prompt tokens in the KV memory, full depth"] == pytest.approx(MAX_TOTAL_TOKENS * full / total)


def test_the_dashboard_says_what_the_bands_save(scraped: Scraped) -> None:
    """Four deep tokens of a prompt pass the two upper layers, of a prompt that is reused three."""
    (served,), (full,) = scraped.values(_all(BYTES_AS_SERVED)), scraped.values(_all(BYTES_AT_FULL_DEPTH))
    held, deep = full / (8 * BYTES_PER_LAYER), sum(scraped.values("sglang_speed:deep_tokens_used"))
    assert held > 4 * 90
    assert served == held * 6 * BYTES_PER_LAYER + deep * 2 * BYTES_PER_LAYER
    assert 0.15 < scraped.value("What depth bands save, Work of prompts that is left out, {{instance}}") < 0.25
    assert 0.5 < scraped.value("Reuse, Hit rate, {{instance}}") < 1


def test_a_request_that_never_fits_raises_an_alert(scraped: Scraped) -> None:
    never_fits = {"input_ids": long_prompt(DEEP_TOKENS + 100), "return_logprob": True, "logprob_start_len": 0}
    assert requests.post(f"{scraped.server.url}/generate", json=never_fits, timeout=120).status_code == 400
    complete(scraped.server, PROMPT)  # metrics follow the next batch
    raised = 'ALERTS{alertname="SglangSpeedRequestsRefused", alertstate="firing", band="deep"}'
    wait_until(lambda: scraped.prometheus.values(raised) == [1])


def _all(expr: str) -> str:
    """A query for every job and server."""
    return expr.replace("$job", ".+").replace("$instance", ".+")
