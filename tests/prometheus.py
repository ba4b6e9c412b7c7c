"""A real Prometheus beside a test, or beside a running service."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from s2d_ray.observe.alerts import Thresholds
from s2d_ray.observe.export import write_all
from s2d_ray.observe.pages import DASHBOARDS
from s2d_ray.observe.panels import Panel
from tests.ports import free_port

PATIENCE_S = 30.0


def tool(name: str) -> str:
    """Path of prometheus or promtool; skips the test where it is not to be had."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not there; on Debian `apt install prometheus` brings it")
    return found


def concrete(expr: str, window_s: int) -> str:
    """An expression of a dashboard as Grafana sends it, everything chosen."""
    expr = expr.replace("$__range_s", str(window_s))
    expr = re.sub(r"\$__(rate_interval|range)\b", f"{window_s}s", expr)
    expr = re.sub(r'"\$(namespace|target|tenant|replica)"', '".*"', expr)
    assert "$__" not in expr
    return expr


@dataclass(frozen=True)
class Prometheus:
    """A running one."""

    http: httpx.Client

    def ask(self, path: str, **parameters: Any) -> Any:
        """The data of an answer of its API. Raises AssertionError with its words if it refuses."""
        answer = self.http.get(f"/api/v1/{path}", params=parameters)
        body = answer.json()
        assert body["status"] == "success", f"{body.get('error')}: {parameters}"
        return body["data"]

    def query(self, expr: str) -> list[dict[str, Any]]:
        """Samples of an expression, now."""
        result: list[dict[str, Any]] = self.ask("query", query=expr)["result"]
        return result

    def num_scrapes(self) -> int:
        """How often the page was read so far."""
        samples = self.query("count_over_time(up[1h])")
        return int(samples[0]["value"][1]) if samples else 0

    def wait_until(self, claim: Callable[[], bool], what: str) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not claim():
            assert time.monotonic() < deadline_s, f"not in {PATIENCE_S} s: {what}"
            time.sleep(0.1)

    def silent(self, window_s: int) -> list[tuple[str, Panel, str]]:
        """Queries of dashboards without data: page, panel, expression."""
        return [
            (dashboard.name, panel, query.expr)
            for dashboard in DASHBOARDS
            for panel in dashboard.panels
            for query in panel.queries
            if not self.query(concrete(query.expr, window_s))
        ]

    def alerts(self, state: str) -> set[str]:
        """Names of the alerts that are `pending` or `firing`."""
        found = self.ask("alerts")["alerts"]
        return {alert["labels"]["alertname"] for alert in found if alert["state"] == state}


@contextlib.contextmanager
def watching(
    url: str, folder: Path, scrape_s: int = 1, key_file: Path | None = None
) -> Iterator[Prometheus]:
    """A Prometheus with what `s2d dashboards` writes, which reads `url`/metrics often."""
    program = tool("prometheus")
    write_all(folder, url, key_file, Thresholds())
    config = yaml.safe_load((folder / "prometheus.yml").read_text())
    config["global"] = dict.fromkeys(("scrape_interval", "evaluation_interval"), f"{scrape_s}s")
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    command = [
        program,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as http:
                found = Prometheus(http)
                found.wait_until(lambda: _is_ready(http, process, folder), "Prometheus is ready")
                yield found
        finally:
            process.terminate()
            process.wait(PATIENCE_S)


def _is_ready(http: httpx.Client, process: subprocess.Popen[bytes], folder: Path) -> bool:
    assert process.poll() is None, (folder / "log").read_text()
    try:
        return http.get("/-/ready").status_code == 200
    except httpx.TransportError:
        return False
