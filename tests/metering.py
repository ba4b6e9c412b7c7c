"""A meter that remembers what it was told."""

from __future__ import annotations

from collections import defaultdict

from s2d_ray.observe.meter import Instrument, Meter
from s2d_ray.observe.metric_table import Kind, Metric

Series = tuple[str, tuple[tuple[str, str], ...]]


class Told:
    """sums: of counters, and latest values of gauges; observed: of histograms."""

    def __init__(self) -> None:
        self.sums: defaultdict[Series, float] = defaultdict(float)
        self.observed: defaultdict[Series, list[float]] = defaultdict(list)
        self.meter = Meter(self._instrument)

    def value(self, name: str, **labels: str) -> float | None:
        """Of one series; None if it was never told."""
        return self.sums.get((name, tuple(sorted(labels.items()))))

    def labels(self, name: str) -> list[dict[str, str]]:
        """Of all series of a metric."""
        return [dict(labels) for metric, labels in (*self.sums, *self.observed) if metric == name]

    def names(self) -> set[str]:
        """Metrics that were told."""
        return {name for name, _ in (*self.sums, *self.observed)}

    def _instrument(self, metric: Metric) -> Instrument:
        def take(value: float, labels: dict[str, str]) -> None:
            series = metric.name, tuple(sorted(labels.items()))
            if metric.kind is Kind.HISTOGRAM:
                self.observed[series].append(value)
            elif metric.kind is Kind.COUNTER:
                assert value > 0, f"Ray refuses to add {value} to {metric.name}"
                self.sums[series] += value
            else:
                self.sums[series] = value

        return take
