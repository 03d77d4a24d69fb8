"""What deploy/ has for Docker, Kubernetes and Grafana is valid, and agrees with the package."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from check_jsonschema import main as check_jsonschema
from click.testing import CliRunner as ClickRunner
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from typer.testing import CliRunner

from benchmarks.documents import END
from deploy import sizing
from deploy.grafana import dashboard
from deploy.grafana.panels import ROWS
from sglang_speed import SUPPORTED_SGLANG, __version__
from sglang_speed.kv_pool.capacity import DEEP_TOKENS_VARIABLE
from sglang_speed.lab.cli import app

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
COMPOSE = DEPLOY / "docker/compose.yaml"
KUBERNETES = ("1.30", kubernetes_validate.latest_version())
HEALTH_SECONDS = 20
"""How long SGLang waits for a token before /health_generate says that it is not healthy."""


def resources() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(DEPLOY.glob("kubernetes/*/*.yaml")):
        if path.name != "kustomization.yaml":
            for resource in yaml.safe_load_all(path.read_text(encoding="utf-8")):
                yield f"{resource['kind']} of {path.parent.name}/{path.name}", resource


RESOURCES = dict(resources())
SERVER = RESOURCES["Deployment of server/server.yaml"]
SERVER_POD = SERVER["spec"]["template"]
CONTAINER = SERVER_POD["spec"]["containers"][0]
SERVICES = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]
COMMANDS = {"Docker": SERVICES["server"]["command"], "Kubernetes": CONTAINER["args"]}


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("name", RESOURCES)
def test_a_resource_is_valid(name: str, version: str) -> None:
    kubernetes_validate.validate(RESOURCES[name], version, strict=True)


def test_a_resource_that_is_wrong_is_not_valid() -> None:
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**SERVER, "spec": {**SERVER["spec"], "replica": 1}}, KUBERNETES[0], strict=True)


@pytest.mark.parametrize(
    "path", sorted(DEPLOY.glob("kubernetes/*/kustomization.yaml")), ids=lambda path: path.parent.name
)
def test_a_kustomization_names_what_is_there(path: Path) -> None:
    kustomization = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert all((path.parent / resource).exists() for resource in kustomization["resources"])
    assert all(each["name"] == SERVER["metadata"]["name"] for each in kustomization.get("replicas", []))


def test_selectors_find_the_pods_they_are_for() -> None:
    server, router = SERVER_POD["metadata"]["labels"], _router()["metadata"]["labels"]
    assert server != router
    for name, resource in RESOURCES.items():
        selector = resource["spec"].get("selector") if "spec" in resource else None
        if selector:
            labels = selector.get("matchLabels", selector)
            assert labels == (router if name.endswith("router.yaml") else server), name
    (selected,) = (flag for flag in _router()["spec"]["containers"][0]["args"] if flag.startswith("--selector="))
    assert selected == "--selector=" + "=".join(*server.items())


def test_probes_wait_longer_than_the_server_for_a_token() -> None:
    """/health answers at once where SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION is false, and else as /health_generate."""
    for probe in ("startupProbe", "livenessProbe"):
        assert CONTAINER[probe]["httpGet"]["path"] == "/health_generate"
        assert CONTAINER[probe]["timeoutSeconds"] > HEALTH_SECONDS
    assert {"name": "SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION", "value": "false"} in CONTAINER["env"]
    assert CONTAINER["readinessProbe"]["httpGet"]["path"] == "/health"
    start = CONTAINER["startupProbe"]["periodSeconds"] * CONTAINER["startupProbe"]["failureThreshold"]
    assert start < SERVER["spec"]["progressDeadlineSeconds"]


def test_the_compose_file_is_valid() -> None:
    checked = ClickRunner().invoke(check_jsonschema, ["--builtin-schema", "vendor.compose-spec", str(COMPOSE)])
    assert checked.exit_code == 0, checked.output


def test_files_that_containers_mount_are_there_and_ports_are_open_on_this_machine_only() -> None:
    for service in SERVICES.values():
        sources = [each.partition(":")[0] for each in service["volumes"]]
        assert all((COMPOSE.parent / source).exists() for source in sources if source.startswith("."))
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_the_image_is_that_of_the_newest_supported_sglang() -> None:
    dockerfile = (DEPLOY / "docker/Dockerfile").read_text(encoding="utf-8")
    assert re.findall(r"lmsysorg/sglang:v([\d.]+)", dockerfile) == [SUPPORTED_SGLANG[-1]]
    assert CONTAINER["image"].endswith(f"/sglang-speed:{__version__}")


def test_the_image_is_built_of_what_the_ignore_file_lets_through() -> None:
    copied = re.findall(r"^COPY (.+) \S+$", (DEPLOY / "docker/Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    ignored = (DEPLOY / "docker/Dockerfile.dockerignore").read_text(encoding="utf-8")
    assert {name for line in copied for name in line.split()} == set(re.findall("^!(.+)$", ignored, re.MULTILINE))


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_is_one_that_this_package_has(name: str, tmp_path: Path) -> None:
    """Up to the model, which is not there; SGLang's flags are checked in tests/server/deploy."""
    command, *arguments = COMMANDS[name]
    assert (command, arguments[:2]) == ("serve", ["/models/model", "--"])
    said = CliRunner().invoke(app, [command, str(tmp_path), "--dry-run", *arguments[1:]])
    assert "has no config.json" in str(said.exception)


def test_the_size_of_the_deep_band_is_set_by_its_variable() -> None:
    assert DEEP_TOKENS_VARIABLE in SERVICES["server"]["environment"]
    assert DEEP_TOKENS_VARIABLE in [each["name"] for each in CONTAINER["env"]]


def test_the_dashboard_is_what_its_script_writes() -> None:
    assert dashboard.FILE.read_text(encoding="utf-8") == dashboard.text(), "python -m deploy.grafana.dashboard"


def test_the_dashboard_has_only_what_grafana_knows() -> None:
    """Grafana's own types leave out what they do not know."""
    written = dashboard.dashboard()
    assert _keeps(_read_by_grafana(written), written)
    unknown = {**written, "panels": [{**written["panels"][1], "titel": "?"}]}
    assert not _keeps(_read_by_grafana(unknown), unknown)


@pytest.mark.parametrize("row", ROWS)
def test_panels_of_a_row_fill_the_page_and_say_what_they_show(row: str) -> None:
    assert sum(panel.width for panel in ROWS[row]) == 24
    assert all(panel.title and panel.queries for panel in ROWS[row])


def test_the_sizing_examples_are_what_the_command_says() -> None:
    readme = sizing.README.read_text(encoding="utf-8")
    assert readme.split(f"<!-- figures of {sizing.SOURCE} -->\n")[1].split(END)[0] == sizing.text(), "-m deploy.sizing"


def _router() -> dict[str, Any]:
    return RESOURCES["Deployment of routed/router.yaml"]["spec"]["template"]


def _read_by_grafana(written: dict[str, Any]) -> Any:
    return json.loads(JSONEncoder().encode(Dashboard.from_json(written)))


def _keeps(read: Any, written: Any) -> bool:
    """Whether all that is written is there, beside defaults."""
    if isinstance(written, dict):
        return all(key in read and _keeps(read[key], value) for key, value in written.items())
    if isinstance(written, list):
        return len(read) == len(written) and all(map(_keeps, read, written))
    return bool(read == written)
