"""All files by which a Prometheus and a Grafana of your own watch a running service."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from s2d_ray.errors import ConfigError
from s2d_ray.observe import grafana
from s2d_ray.observe.alerts import Thresholds, filled
from s2d_ray.observe.pages import DASHBOARDS

PROMETHEUS = "http://127.0.0.1:9090"
SCRAPE_S = 15


def write_all(out: Path, url: str, key_file: Path | None, thresholds: Thresholds) -> list[Path]:
    """Write the files below `out`; -> them. Raises ConfigError if `url` is none."""
    texts = {
        "prometheus.yml": prometheus_config(url, key_file),
        "alerts.yaml": filled(thresholds),
        **{f"dashboards/{page.name}.json": grafana.file_of(page) for page in DASHBOARDS},
        **{
            f"provisioning/{path}": text
            for path, text in grafana.provisioning(out.resolve() / "dashboards", PROMETHEUS).items()
        },
    }
    for name, text in texts.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return [out / name for name in texts]


def prometheus_config(url: str, key_file: Path | None) -> str:
    """A config that scrapes the API's /metrics, which has all nodes on one page.

    key_file: holds the key of an operator, where there are tenants.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ConfigError(f"--url: {url!r} is not an address such as http://127.0.0.1:8000")
    job: dict[str, Any] = {
        "job_name": "s2d-ray",
        "scheme": parts.scheme,
        "metrics_path": f"{parts.path.rstrip('/')}/metrics",
        "static_configs": [{"targets": [parts.netloc]}],
    }
    if key_file is not None:
        job["authorization"] = {"credentials_file": str(key_file.resolve())}
    seconds = f"{SCRAPE_S}s"
    config = {
        "global": {"scrape_interval": seconds, "evaluation_interval": seconds},
        "rule_files": ["alerts.yaml"],
        "scrape_configs": [job],
    }
    return yaml.safe_dump(config, sort_keys=False)


def thresholds_of(words: Iterable[str]) -> Thresholds:
    """From words such as "max_waiting=64". Raises ConfigError naming the wrong one."""
    values = {}
    for word in words:
        name, is_one, value = word.partition("=")
        if not is_one:
            raise ConfigError(f"--threshold: {word!r} is not NAME=VALUE")
        values[name] = value
    try:
        return Thresholds.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(map(_told, error.errors()))) from None


def _told(error: ErrorDetails) -> str:
    name = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"--threshold {name}: there is no such one; {', '.join(Thresholds.model_fields)} are"
    return f"--threshold {name}: {error['msg'].removeprefix('Value error, ')}"
