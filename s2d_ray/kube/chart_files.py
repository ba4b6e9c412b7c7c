"""Writes what of the chart and of `k8s/` is made from the models; `make chart` runs it.

A test runs `files_of_chart` and `plain_manifests` and compares them with what is committed.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from s2d_ray.config import (
    BY_REQUESTS,
    BY_TOKENS,
    CLOSING_S,
    SPARE_REQUESTS,
    SURGE_PERCENT,
    AutoscalingConfig,
    DraftConfig,
    HttpConfig,
    TargetConfig,
    TenancyConfig,
)
from s2d_ray.kube.values import ChartValues
from s2d_ray.observe import grafana
from s2d_ray.observe.alerts import template as alert_rules
from s2d_ray.observe.pages import DASHBOARDS

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "s2d-ray"
PLAIN = ROOT / "k8s"
RELEASE = "s2d-ray"
WIDTH = 100

DEFAULTS: dict[str, tuple[type[BaseModel], tuple[str, ...]]] = {
    "http": (HttpConfig, ("port", "max_open_requests", "max_request_s")),
    "draft": (DraftConfig, ("device", "deadline_ms", "force_deadline_ms")),
    "target": (
        TargetConfig,
        (
            *("device", "num_gpus", "max_context", "default_max_tokens"),
            *("max_batch", "max_waiting", "num_replicas", "surge"),
        ),
    ),
    "tenancy": (TenancyConfig, ("max_wait_s", "local_texts")),
}
"""Defaults of `config` that the Serve document names although nobody wrote them."""

MONITORING = (
    "--set=monitoring.enabled=true,monitoring.alerts.enabled=true",
    "--set=monitoring.dashboards.enabled=true",
    *(
        f"--show-only=templates/{name}.yaml"
        for name in ("podmonitors", "prometheusrule", "dashboards")
    ),
)
"""What watches any of the presets, by Helm's words."""


def presets() -> list[str]:
    """Names of the chart's presets."""
    return sorted(path.stem for path in (CHART / "presets").glob("*.yaml"))


def files_of_chart() -> dict[str, str]:
    """Path below the chart -> text."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **ChartValues.model_json_schema(by_alias=True),
    }
    defaults: dict[str, Any] = {
        section: {key: model.model_fields[key].default for key in keys}
        for section, (model, keys) in DEFAULTS.items()
    }
    defaults["closingS"] = CLOSING_S
    autoscaling = AutoscalingConfig(max_replicas=1)
    scaling = autoscaling.serve_options(max_batch=1)
    for key in ("max_replicas", "target_ongoing_requests", "policy"):  # depend on what is written
        del scaling[key]
    defaults["autoscaling"] = scaling
    defaults["policies"] = {"requests": BY_REQUESTS, "tokens": BY_TOKENS}
    defaults["spareRequests"] = SPARE_REQUESTS
    defaults["surgePercent"] = SURGE_PERCENT
    defaults["rayVersion"] = version("ray")
    return {
        "values.schema.json": json.dumps(schema, indent=1) + "\n",
        "files/defaults.json": json.dumps(defaults, indent=2) + "\n",
        "files/alerts.yaml": alert_rules(),
        **{f"files/dashboards/{page.name}.json": grafana.file_of(page) for page in DASHBOARDS},
        "values.yaml": values_yaml(),
    }


def plain_manifests(helm: str) -> dict[str, str]:
    """File name below `k8s/` -> what `helm template` makes of each preset, tests left out."""
    made = {f"{name}.yaml": rendered(helm, name) for name in presets()}
    return made | {"monitoring.yaml": rendered(helm, "quickstart", *MONITORING)}


def rendered(helm: str, preset: str, *options: str) -> str:
    """One preset as plain manifests. Raises CalledProcessError with Helm's words."""
    values = CHART / "presets" / f"{preset}.yaml"
    command = [helm, "template", RELEASE, str(CHART), "-f", str(values), "--no-hooks"]
    command += ["--set", f"image.repository={RELEASE}", *options]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def values_yaml() -> str:
    """The chart's default values, each behind its meaning."""
    head = [
        "# The values of this chart. Made by `make chart` from s2d_ray/kube/values.py; edit there.",
        "# presets/ has complete examples.",
    ]
    return "\n".join([*head, *_section(ChartValues, None, "")]) + "\n"


def _section(model: type[BaseModel], chosen: BaseModel | None, indent: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        if field.alias == "global":
            continue
        value = getattr(chosen, name) if chosen else _default(field)
        key = field.alias or name
        if not indent:
            yield ""
        if text := field.description or _first_line(value):
            yield f"{indent}# {text}"
        if isinstance(value, BaseModel) and not _is_leaf(value):
            yield f"{indent}{key}:"
            yield from _section(type(value), value, indent + "  ")
        else:
            yield f"{indent}{key}: {_inline(value)}"


def _default(field: FieldInfo) -> Any:
    return {} if field.is_required() else field.default


def _first_line(value: Any) -> str:
    return (type(value).__doc__ or "").splitlines()[0] if isinstance(value, BaseModel) else ""


def _is_leaf(value: BaseModel) -> bool:
    return len(_inline(value)) < WIDTH // 2 and not any(
        field.description for field in type(value).model_fields.values()
    )


def _inline(value: Any) -> str:
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", by_alias=True)
    return json.dumps(value)


def main() -> None:
    """Write all files; Helm must be on the path."""
    for path, text in files_of_chart().items():
        (CHART / path).parent.mkdir(parents=True, exist_ok=True)
        (CHART / path).write_text(text, encoding="utf-8")
    for path, text in plain_manifests("helm").items():
        (PLAIN / path).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
