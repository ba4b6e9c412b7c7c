"""A page as Ray's exporters write it, with every series that dashboards and alerts may ask for.

Made from the metric table, so it is complete; numbers are those of a healthy service that is busy.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from s2d_ray.observe.metric_table import METRICS, Kind, Metric
from s2d_ray.observe.series import OF_RAY, OF_RAY_ON_GPUS, OF_THE_TABLE, Series

VALUES: Mapping[str, tuple[str, ...]] = {
    "tenant": ("acme", "other"),
    "target": ("left", "right"),
    "status": ("200", "429", "503"),
    "kind": ("prompt", "cached", "output"),
    "reason": ("tokens_per_minute", "service_full"),
    "state": ("waiting", "running", "used", "total"),
    "by": ("tier-0", "exit-2", "exit-4"),
    "position": ("1", "2"),
    "task": ("chat", "code"),
    "load": ("2", "4"),
    "field": ("max_proposal", "stop_threshold", "exit-2"),
    "bound": ("ratio", "low", "high"),
    "exit": ("2", "4"),
    "replica": ("k3", "z9"),
    "application": ("target-left", "target-right", "router"),
    "ip": ("192.0.2.1",),
    "Component": (
        "ray::DraftActor.propose",
        "ray::ServeReplica:target-left:target.write",
        "ray::ServeReplica:target-1.5b:target",
    ),
    "GpuIndex": ("0",),
}
"""Of each label, values as the service tells them."""

GAUGES: Mapping[str, float] = {
    "ray_s2d_draft_up": 1,
    "ray_s2d_circuit": 0,
    "ray_s2d_speculates": 1,
    "ray_s2d_speedup": 1.4,
    "ray_s2d_calibration_error": 0.02,
    "ray_s2d_replicas": 2,
    "ray_s2d_ledger_lost_records": 0,
    "ray_s2d_ledger_tenants_file_broken": 0,
}
"""Where a gauge has a meaning of its own; all others are 3."""

STEPS: Mapping[str, float] = {
    "ray_s2d_requests_total": 4,
    "ray_s2d_drafted_total": 40,
    "ray_s2d_accepted_total": 30,
    "ray_s2d_draft_busy_seconds_total": 0.3,
    "ray_s2d_refusals_total": 0.001,
}
"""What a counter grows by from page to page; all others by 1. Starts of replicas do not grow."""

RARE = {("status", "503"), ("status", "429")}


def page(number: int) -> str:
    """The page of the scrape with this number."""
    lines: list[str] = []
    for metric, series in zip(METRICS, OF_THE_TABLE, strict=True):
        lines += _family(series, number, metric)
    for series in (*OF_RAY, *OF_RAY_ON_GPUS):
        lines += _family(series, number)
    return "\n".join(lines) + "\n"


def _family(series: Series, number: int, metric: Metric | None = None) -> Iterator[str]:
    name = series.name
    yield f"# TYPE {name} {series.kind}"
    for labels in label_sets(series):
        if series.kind is Kind.GAUGE:
            yield f"{name}{{{labels}}} {GAUGES.get(name, 3)}"
        elif series.kind is Kind.COUNTER:
            yield f"{name}{{{labels}}} {_count(name, labels, number)}"
        else:
            assert metric is not None
            yield from _histogram(name, labels, metric.bounds, 100 + 10 * number)


def label_sets(series: Series) -> Iterator[str]:
    """All combinations of values of its labels, each as it is written."""
    for values in itertools.product(*(VALUES[label] for label in series.labels)):
        pairs = zip(series.labels, values, strict=True)
        yield ",".join(f'{label}="{value}"' for label, value in pairs)


def _count(name: str, labels: str, number: int) -> float:
    if name == "ray_serve_deployment_replica_starts_total":
        return 1
    step = STEPS.get(name, 1)
    if any(f'{label}="{value}"' in labels for label, value in RARE):
        step /= 10_000
    return 1_000 + step * number


def _histogram(name: str, labels: str, bounds: tuple[float, ...], count: int) -> Iterator[str]:
    """Nine in ten values lie in the second bucket, the others in the third."""
    shares = [0.0, 0.9, *[1.0] * (len(bounds) - 2)]
    for bound, share in zip(bounds, shares, strict=True):
        yield f'{name}_bucket{{{labels},le="{bound}"}} {round(share * count)}'
    yield f'{name}_bucket{{{labels},le="+Inf"}} {count}'
    yield f"{name}_count{{{labels}}} {count}"
    yield f"{name}_sum{{{labels}}} {count * bounds[1]}"


class Exporter:
    """Serves the pages one after the other at `url`."""

    def __init__(self) -> None:
        numbers = itertools.count()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                content = page(next(numbers)).encode()
                self.send_response(200)
                self.send_header("content-type", "text/plain; version=0.0.4")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # Prometheus has ended meanwhile
                    self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                """Not to the terminal."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Exporter:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
