"""Alert rules and scrape configurations, by promtool: they are valid, and each alert is raised when it should be."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.server.deploy.monitoring import PROMETHEUS, ROOT, alerts, measures_of, promtool

SCENARIOS = yaml.safe_load((PROMETHEUS / "rules_test.yml").read_text(encoding="utf-8"))["tests"]


def test_rules_are_valid() -> None:
    assert f"{len(alerts())} rules found" in promtool("check", "rules", "rules.yml")


def test_the_scrape_configuration_is_valid() -> None:
    promtool("check", "config", "prometheus.yml")


def test_the_scrape_configuration_for_kubernetes_is_valid(tmp_path: Path) -> None:
    """Debian's Prometheus was built without Kubernetes: another discovery takes its place, the rest is checked."""
    config = yaml.safe_load((PROMETHEUS / "kubernetes.yml").read_text(encoding="utf-8"))
    (job,) = config["scrape_configs"]
    (elsewhere,) = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    assert job["metric_relabel_configs"] == elsewhere["metric_relabel_configs"]
    assert job.pop("kubernetes_sd_configs") == [{"role": "pod"}]
    job["static_configs"] = [{"targets": ["a:30000"]}]
    (tmp_path / "kubernetes.yml").write_text(yaml.safe_dump({**config, "rule_files": []}), encoding="utf-8")
    promtool("check", "config", "kubernetes.yml", cwd=tmp_path)
    assert config["rule_files"] == ["rules.yml"]


def test_alerts_are_raised_when_they_should_be_and_not_otherwise() -> None:
    promtool("test", "rules", "rules_test.yml")


@pytest.mark.parametrize("alert", alerts())
def test_each_alert_is_raised_in_a_scenario_in_which_it_was_silent_before(alert: str) -> None:
    def raised(check: dict[str, list[dict[str, str]]]) -> bool:
        return any(f'"{alert}"' in sample["labels"] for sample in check["exp_samples"])

    scenarios = [[raised(check) for check in scenario["promql_expr_test"]] for scenario in SCENARIOS]
    assert any(True in each and not each[0] for each in scenarios)


@pytest.mark.parametrize("alert", alerts())
def test_each_alert_says_what_it_means_and_what_to_do(alert: str) -> None:
    rule = alerts()[alert]
    assert rule["annotations"].keys() == {"summary", "description", "action", "page"}
    assert rule["labels"]["severity"] in ("critical", "warning")
    page, _, section = rule["annotations"]["page"].partition("#")
    text = (ROOT / page).read_text(encoding="utf-8")
    headings = [line.lstrip("# ").lower().replace(" ", "-") for line in text.splitlines() if line.startswith("#")]
    assert not section or section in headings


def test_what_an_alert_measures_is_its_expression_without_comparisons() -> None:
    assert measures_of("a / b > 0.5\nand\nc == 1 unless on (job, instance) d") == ["a / b", "c", "d"]
    assert measures_of('absent(up{job="x"}) == 1') == ['(up{job="x"})']
