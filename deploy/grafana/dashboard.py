"""Writes sglang-speed.json from `panels`: `python -m deploy.grafana.dashboard`. A test compares the two."""

from __future__ import annotations

import json
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deploy.grafana.panels import ROWS, Panel

FILE = Path(__file__).with_name("sglang-speed.json")
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
STAT_HEIGHT, HEIGHT, ROW_HEIGHT = 4, 8, 1


def dashboard() -> dict[str, Any]:
    return {
        "uid": "sglang-speed",
        "title": "SGLang in depth bands",
        "tags": ["sglang", "sglang-speed"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": list(_variables())},
        "panels": list(_panels()),
    }


def _variables() -> Iterator[dict[str, Any]]:
    """The data source, then jobs and instances that have SGLang's metrics."""
    yield {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    for name, label, selector in (("job", "Job", ""), ("instance", "Server", '{job=~"$job"}')):
        query = f"label_values(sglang:num_running_reqs{selector}, {name})"
        yield {
            "name": name,
            "label": label,
            "type": "query",
            "datasource": SOURCE,
            "query": {"query": query, "refId": name},
            "refresh": 2,
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "allValue": ".+",
            "current": {"text": ["All"], "value": ["$__all"]},
        }


def _panels() -> Iterator[dict[str, Any]]:
    """Rows from the top to the bottom, their panels from the left to the right."""
    number, y = 0, 0
    for title, panels in ROWS.items():
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": False,
            "panels": [],
            "gridPos": {"x": 0, "y": y, "w": 24, "h": ROW_HEIGHT},
        }
        x, y, height = 0, y + ROW_HEIGHT, STAT_HEIGHT if panels[0].is_stat else HEIGHT
        for panel in panels:
            number += 1
            yield {"id": number, **_drawn(panel), "gridPos": {"x": x, "y": y, "w": panel.width, "h": height}}
            x += panel.width
        y += height


def _drawn(panel: Panel) -> dict[str, Any]:
    shown = {
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "targets": [
            {
                "refId": letter,
                "datasource": SOURCE,
                "editorMode": "code",
                "expr": query.expr,
                "legendFormat": query.legend,
            }
            | ({"instant": True, "range": False} if panel.is_stat else {"instant": False, "range": True})
            for letter, query in zip(string.ascii_uppercase, panel.queries, strict=False)
        ],
    }
    return {**shown, **(_stat(panel) if panel.is_stat else _lines(panel))}


def _stat(panel: Panel) -> dict[str, Any]:
    return {
        "type": "stat",
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "color": {"mode": "fixed", "fixedColor": "text"}},
            "overrides": [],
        },
        "options": {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "graphMode": "none"},
    }


def _lines(panel: Panel) -> dict[str, Any]:
    scale = {"min": 0} | ({} if panel.most is None else {"max": panel.most})
    return {
        "type": "timeseries",
        "fieldConfig": {
            "defaults": {"unit": panel.unit, **scale, "custom": {"lineWidth": 1, "fillOpacity": 5}},
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    }


def text() -> str:
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
