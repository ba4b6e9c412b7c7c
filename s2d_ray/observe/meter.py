"""Telling numbers by the table of metrics: what it does not know is refused. Knows no Ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from s2d_ray.observe.metric_table import BY_NAME, Kind, Metric

Instrument = Callable[[float, dict[str, str]], None]
"""Takes a number and its labels: adds it to a counter, puts it into a histogram, sets a gauge."""

OTHER = "other"
"""The label of all names beyond the first ones."""


class Meter:
    """Takes numbers of metrics by their names in the table.

    make: an instrument for a metric; each is made when its first number is told.
    """

    def __init__(self, make: Callable[[Metric], Instrument]) -> None:
        self._make = make
        self._made: dict[str, tuple[Metric, frozenset[str], Instrument]] = {}

    def tell(self, name: str, value: float = 1.0, /, **labels: str) -> None:
        """One number: a counter grows by it, a histogram counts it, a gauge is it from now on.

        Raises KeyError for a metric that is not in the table, ValueError for other labels than
        its own.
        """
        if name not in self._made:
            metric = BY_NAME[name]
            self._made[name] = metric, frozenset(metric.labels), self._make(metric)
        metric, wanted, instrument = self._made[name]
        if labels.keys() != wanted:
            raise ValueError(f"metric {name} has labels {metric.labels}, not {tuple(labels)}")
        if value or metric.kind is not Kind.COUNTER:  # Ray refuses to add nothing to a counter
            instrument(value, labels)


class Totals:
    """Tells counters from what somebody else has counted so far."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._told: dict[tuple[str, tuple[str, ...]], float] = {}

    def tell(self, name: str, total: float, /, **labels: str) -> None:
        """Tell what a total has grown by; one that fell has begun anew at 0."""
        key = name, tuple(labels.values())
        before = self._told.get(key, 0.0)
        self._told[key] = total
        self._meter.tell(name, total - before if total >= before else total, **labels)


class FewNames:
    """The first so many names by themselves, all others as `other`: a label must stay bounded."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._names: set[str] = set()

    def __call__(self, name: str) -> str:
        """The label of a name."""
        if name not in self._names:
            if len(self._names) >= self._most:
                return OTHER
            self._names.add(name)
        return name


class TargetGauges:
    """Gauges of targets, which come and go: one that is not told any more ends at 0."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._told: dict[str, set[str]] = {}

    def tell(self, name: str, values: Mapping[str, float], /) -> None:
        """A metric's values by target."""
        for gone in self._told.get(name, set()) - values.keys():
            self._meter.tell(name, 0.0, target=gone)
        self._told[name] = set(values)
        for target, value in values.items():
            self._meter.tell(name, value, target=target)
