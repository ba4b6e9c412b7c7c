"""The metrics of the table as Ray's own, which the exporter of each node shows."""

from __future__ import annotations

from typing import Any

from ray.serve import metrics

from s2d_ray.observe.meter import Instrument, Meter
from s2d_ray.observe.metric_table import Kind, Metric


def ray_meter() -> Meter:
    """A meter of this process."""
    return Meter(ray_instrument)


def ray_instrument(metric: Metric) -> Instrument:
    """A metric of Ray's; Serve adds its own labels in a replica."""
    name = f"s2d_{metric.name}"
    labels: Any = metric.labels  # Ray's types allow a single one
    instrument: Instrument
    if metric.kind is Kind.COUNTER:
        instrument = metrics.Counter(name, metric.help, labels).inc
    elif metric.kind is Kind.GAUGE:
        instrument = metrics.Gauge(name, metric.help, labels).set
    else:
        histogram = metrics.Histogram(name, metric.help, list(metric.bounds), labels)
        instrument = histogram.observe
    return instrument
