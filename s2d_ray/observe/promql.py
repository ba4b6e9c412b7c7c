"""Expressions of PromQL, made from names of the metric table.

Each function takes a metric of one kind, so no rate is taken of a gauge; a mean is always one
counter over another, by `ratio`. Where nothing has happened in the window, it has no value.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from s2d_ray.observe.metric_table import Kind
from s2d_ray.observe.series import series

GRAFANA_WINDOW = "$__rate_interval"
"""Grafana's own: long enough for a rate, whatever the scrape interval."""


def ratio(part: str, whole: str) -> str:
    """One rate over another with the same labels: 0 where the part has no series yet."""
    return f"({part} or 0 * {whole}) / ({whole} > 0)"


@dataclass(frozen=True)
class Scope:
    """What the expressions of one page, or of the alerts, have alike.

    variables: labels that the page filters by, where a metric has them. window: of rates. keys:
    labels that every result keeps, beside those asked for. ago: how long ago the window ended.
    """

    variables: tuple[str, ...] = ()
    window: str = GRAFANA_WINDOW
    keys: tuple[str, ...] = ()
    ago: str = ""

    def over(self, window: str, ago: str = "") -> Scope:
        """The same with another window."""
        return replace(self, window=window, ago=ago)

    def select(self, name: str, where: str = "", suffix: str = "") -> str:
        """The selector of a metric. where: matchers; suffix: `_bucket` of a histogram."""
        found = series(name)
        filters = [f'{label}=~"${label}"' for label in self.variables if label in found.labels]
        if self.variables:
            filters.insert(0, 'namespace=~"$namespace"')
        matchers = ", ".join([*filters, *([where] if where else [])])
        return f"{found.name}{suffix}{{{matchers}}}" if matchers else found.name + suffix

    def rate(self, name: str, by: str = "", where: str = "") -> str:
        """Increase of a counter each second, by labels ("target status")."""
        return f"sum{self._by(by)} (rate({self._span(self._counter(name, where))}))"

    def shares(self, name: str, by: str, among: str = "") -> str:
        """Each label set's share of a counter's increase, among those that have `among` alike."""
        whole = f"({self.rate(name, among)} > 0)"
        on = ", ".join((*self.keys, *among.split()))
        return f"{self.rate(name, f'{among} {by}')} / on ({on}) group_left () {whole}"

    def quantile(self, share: float, name: str, by: str = "") -> str:
        """A quantile of a histogram, to the width of its buckets."""
        assert series(name).kind is Kind.HISTOGRAM, name
        buckets = self._span(self.select(name, suffix="_bucket"))
        return f"histogram_quantile({share:g}, sum{self._by(f'le {by}')} (rate({buckets})))"

    def up_to(self, name: str, bound: str, by: str = "") -> str:
        """How many of a histogram's values each second are at most this bound of a bucket.

        Exporters write a bound of one second as 1 or as 1.0; so the pattern takes both.
        """
        assert series(name).kind is Kind.HISTOGRAM, name
        buckets = self._span(self.select(name, f'le=~"{bound}([.]0)?"', "_bucket"))
        return f"sum{self._by(by)} (rate({buckets}))"

    def events(self, name: str, by: str = "", where: str = "", window: str = "") -> str:
        """How often something rare has happened in the window.

        A series begins with its first event, which `increase` cannot see; so what a series had
        when it was first seen is added, if that was within the window.
        """
        counter, window = self._counter(name, where), window or self.window
        grown = f"sum{self._by(by)} (increase({counter}[{window}]))"
        new = f"sum{self._by(by)} ({counter} unless {counter} offset {window})"
        return f"{grown} + ({new} or 0 * sum{self._by(by)} ({counter}))"

    def now(self, name: str, by: str = "", where: str = "", how: str = "sum") -> str:
        """A gauge, added up (or `max`, `min`, `avg`) by labels."""
        assert series(name).kind is Kind.GAUGE, name
        return f"{how}{self._by(by)} ({self.select(name, where)})"

    def _span(self, selector: str) -> str:
        return f"{selector}[{self.window}]" + (f" offset {self.ago}" if self.ago else "")

    def _counter(self, name: str, where: str) -> str:
        assert series(name).kind is Kind.COUNTER, name
        return self.select(name, where)

    def _by(self, labels: str) -> str:
        found = (*self.keys, *labels.split())
        return f" by ({', '.join(found)})" if found else ""
