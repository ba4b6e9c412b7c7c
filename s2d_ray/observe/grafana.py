"""Dashboards as Grafana's JSON, and the files by which a Grafana finds them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from s2d_ray.observe.panels import Dashboard, Look, Panel, Row, Variable
from s2d_ray.observe.series import series

SCHEMA_VERSION = 42
"""Of Grafana 12.1 and later; older ones read it too, newer ones migrate it."""

TAG = "s2d-ray"
COLUMNS = 24
SIZES = {Look.NUMBER: (4, 4), Look.GRAPH: (8, 8), Look.STATES: (8, 8), Look.TABLE: (12, 8)}
"""Columns and lines of a panel."""

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
SHARES = "percentunit"
COLOURS = ("green", "yellow", "red")


def file_of(dashboard: Dashboard) -> str:
    """The JSON that Grafana imports, as text."""
    return json.dumps(document(dashboard), indent=1) + "\n"


def document(dashboard: Dashboard) -> dict[str, Any]:
    """The JSON that Grafana imports."""
    return {
        "id": None,
        "uid": f"s2d-{dashboard.name}",
        "title": dashboard.title,
        "description": dashboard.text,
        "tags": [TAG],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "annotations": {"list": []},
        "links": [_link()],
        "templating": {"list": list(_variables(dashboard))},
        "panels": list(_panels(dashboard.rows)),
    }


def provisioning(folder: Path, prometheus: str) -> dict[str, str]:
    """Path -> text: the files by which a Grafana of your own finds Prometheus and the pages.

    folder: where the dashboards lie, absolute. prometheus: its address.
    """
    source = {"name": "Prometheus", "type": "prometheus", "access": "proxy", "isDefault": True}
    provider = {"name": TAG, "folder": TAG, "type": "file", "options": {"path": str(folder)}}
    return {
        "datasources/s2d-ray.yaml": _yaml(datasources=[{**source, "url": prometheus}]),
        "dashboards/s2d-ray.yaml": _yaml(providers=[provider]),
    }


def _yaml(**sections: Any) -> str:
    return yaml.safe_dump({"apiVersion": 1, **sections}, sort_keys=False)


def _link() -> dict[str, Any]:
    """To the other pages, with what is chosen at the top of this one."""
    return {
        "type": "dashboards",
        "title": "s2d-ray",
        "tags": [TAG],
        "asDropdown": False,
        "includeVars": True,
        "keepTime": True,
        "targetBlank": False,
        "icon": "external link",
        "tooltip": "",
        "url": "",
    }


def _variables(dashboard: Dashboard) -> Iterator[dict[str, Any]]:
    yield {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
        "hide": 0,
        "includeAll": False,
        "multi": False,
        "refresh": 1,
    }
    for variable in (Variable("namespace", "replicas"), *dashboard.variables):
        query = f"label_values({_chosen_before(dashboard, variable)}, {variable.label})"
        yield {
            "name": variable.label,
            "label": variable.label.capitalize(),
            "type": "query",
            "datasource": SOURCE,
            "query": {"query": query, "refId": "StandardVariableQuery"},
            "refresh": 2,
            "sort": 1,
            "hide": 0,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": ["All"], "value": ["$__all"]},
        }


def _chosen_before(dashboard: Dashboard, variable: Variable) -> str:
    """The metric, filtered by the variables that come before this one."""
    found = series(variable.metric)
    labels = [other.label for other in dashboard.variables]
    if variable.label not in labels:
        return found.name
    before = [name for name in labels[: labels.index(variable.label)] if name in found.labels]
    matchers = ", ".join(f'{name}=~"${name}"' for name in ("namespace", *before))
    return f"{found.name}{{{matchers}}}"


def _panels(rows: tuple[Row, ...]) -> Iterator[dict[str, Any]]:
    """From left to right, line after line; ids count up."""
    number, top = 0, 0
    for row in rows:
        number += 1
        place = {"x": 0, "y": top, "w": COLUMNS, "h": 1}
        yield {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "gridPos": place,
            "panels": [],
        }
        left, top, height = 0, top + 1, 0
        for panel in row.panels:
            number += 1
            width, lines = SIZES[panel.look]
            if left + width > COLUMNS:
                left, top, height = 0, top + height, 0
            yield _panel(panel, number, {"x": left, "y": top, "w": width, "h": lines})
            left, height = left + width, max(height, lines)
        top += height


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    at_once = panel.look is Look.TABLE
    return {
        "id": number,
        "type": panel.look.value,
        "title": panel.title,
        "description": panel.text,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": _field(panel), "overrides": []},
        "options": _options(panel.look),
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": SOURCE,
                "editorMode": "code",
                "expr": query.expr,
                "legendFormat": query.legend or "__auto",
                "range": not at_once,
                "instant": at_once,
                "format": "table" if at_once else "time_series",
            }
            for index, query in enumerate(panel.queries)
        ],
        **({"transformations": [_without_time()]} if at_once else {}),
    }


def _without_time() -> dict[str, Any]:
    return {"id": "organize", "options": {"excludeByName": {"Time": True}}}


def _field(panel: Panel) -> dict[str, Any]:
    field: dict[str, Any] = {"unit": panel.unit, "noValue": "nothing yet"}
    if panel.look is Look.GRAPH:
        field["custom"] = {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 30 if panel.stacked else 0,
            "spanNulls": False,
            "showPoints": "auto",
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        }
    if panel.unit == SHARES:
        field["min"] = 0
    if panel.words:
        field["mappings"] = [{"type": "value", "options": _words(panel)}]
    return field


def _words(panel: Panel) -> dict[str, Any]:
    """The first word is the good one."""
    return {
        str(value): {"text": word, "color": COLOURS[index], "index": index}
        for index, (value, word) in enumerate(panel.words.items())
    }


def _options(look: Look) -> dict[str, Any]:
    if look is Look.NUMBER:
        latest = {"calcs": ["lastNotNull"], "fields": "", "values": False}
        return {"reduceOptions": latest, "colorMode": "value", "graphMode": "area"}
    if look is Look.TABLE:
        return {"showHeader": True, "cellHeight": "sm"}
    legend = {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []}
    if look is Look.STATES:
        return {"mergeValues": True, "showValue": "auto", "legend": legend}
    return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}
