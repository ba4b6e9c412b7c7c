"""Dashboards ask only for what is told, in the way that its kind asks for."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from s2d_ray.observe.alerts import ALERTS
from s2d_ray.observe.grafana import COLUMNS, document, file_of
from s2d_ray.observe.metric_table import Kind
from s2d_ray.observe.pages import DASHBOARDS
from s2d_ray.observe.panels import Dashboard, table
from s2d_ray.observe.promql import Scope, ratio
from s2d_ray.observe.series import OF_RAY, OF_RAY_ON_GPUS, OF_THE_TABLE, Series

ROOT = Path(__file__).parents[2]
EVERY = {series.name: series for series in (*OF_THE_TABLE, *OF_RAY, *OF_RAY_ON_GPUS)}
QUERIES = [
    *(
        (f"{dashboard.name}: {panel.title}", query.expr)
        for dashboard in DASHBOARDS
        for panel in dashboard.panels
        for query in panel.queries
    ),
    *((alert.name, alert.expr) for alert in ALERTS),
]
MADE = {"label_replace": {"target", "process"}}
"""Labels that an expression makes itself."""

SUMS = {
    "first_token_seconds": "first_tokens",
    "later_token_seconds": "later_tokens",
    "request_seconds": "requests",
    "queue_wait_seconds": "requests",
    "hop_seconds": "hops",
    "draft_step_rows": "draft_steps",
}
"""Counters that add something up, and what they are divided by for the mean."""

each_query = pytest.mark.parametrize(
    "expr", [expr for _, expr in QUERIES], ids=[name for name, _ in QUERIES]
)
each_dashboard = pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda page: page.name)


def metrics_in(expr: str) -> list[tuple[Series, str]]:
    """Each metric that an expression names, and what stands before it."""
    found = []
    for match in re.finditer(r"\bray_\w+", expr):
        name = match[0]
        series = EVERY.get(name) or EVERY[name.removesuffix("_bucket")]
        assert (series.kind is Kind.HISTOGRAM) == name.endswith("_bucket"), name
        found.append((series, expr[: match.start()]))
    return found


def selectors_in(expr: str) -> Iterator[tuple[Series, set[str]]]:
    """Each metric and the labels that it is filtered by."""
    for match in re.finditer(r"\b(ray_\w+)\{([^}]*)\}", expr):
        [(series, _)] = metrics_in(match[1])
        yield series, set(re.findall(r"(\w+)\s*(?:=|!)", re.sub(r'"[^"]*"', "", match[2])))


def aggregations_in(expr: str) -> Iterator[tuple[set[str], Series]]:
    """Labels of each `by`, and the first metric behind it."""
    for match in re.finditer(r"\bby \(([^)]*)\)", expr):
        labels = {label.strip() for label in match[1].split(",")}
        yield labels, metrics_in(expr[match.end() :])[0][0]


def extra_labels(expr: str, series: Series) -> set[str]:
    """Labels that a result may have beside those of the metric."""
    made = {label for function, labels in MADE.items() if function in expr for label in labels}
    buckets = {"le"} if series.kind is Kind.HISTOGRAM else set()
    return made | buckets | {"namespace"}


@each_query
def test_a_query_names_only_metrics_and_labels_that_are_told(expr: str) -> None:
    found = metrics_in(expr)  # a name that nobody tells is a KeyError
    assert found or "ALERTS" in expr
    for series, labels in selectors_in(expr):
        assert labels <= {*series.labels, "namespace", "le"}, series.name
    for labels, series in aggregations_in(expr):
        assert labels <= {*series.labels} | extra_labels(expr, series), series.name


@each_query
def test_rates_are_of_counters_and_counters_are_in_rates(expr: str) -> None:
    """But for the value that a new series of a rare event begins with, see `Scope.events`."""
    selector = r"ray_\w+(?:\{[^}]*\})?"
    plain = re.sub(rf"({selector}) unless \1 offset \S+?(?=[),]| or )", "", expr)
    plain = re.sub(rf"0 \* sum(?: by \([^)]*\))? \({selector}\)", "", plain)
    for series, before in metrics_in(plain):
        rated = before.endswith(("rate(", "increase("))
        assert rated == (series.kind is not Kind.GAUGE), series.name


@each_query
def test_a_mean_is_one_counter_over_its_own_other_one(expr: str) -> None:
    """A histogram's sum is made from the middles of its buckets in Ray, so none is asked for."""
    assert not re.search(r"ray_\w+_(sum|count)\b", expr)
    named = Counter(series.name for series, _ in metrics_in(expr))
    for total, count in SUMS.items():
        if named[f"ray_s2d_{total}_total"]:
            window = "$__rate_interval"
            scopes = [Scope(names, window) for names in (("target",), ("target", "replica"))]
            pairs = [
                ratio(scope.rate(total, by), scope.rate(count, by))
                for scope, by in itertools.product(scopes, ("", "target"))
            ]
            assert expr in pairs, f"{total} is to stand over {count}"


def test_wrong_queries_are_found() -> None:
    """Else the tests above could not fail."""
    with pytest.raises(KeyError):
        metrics_in("rate(ray_s2d_request_total[5m])")
    assert list(selectors_in('ray_s2d_hops_total{tenant="a"}'))[0][1] == {"tenant"}
    with pytest.raises(AssertionError):
        test_rates_are_of_counters_and_counters_are_in_rates("sum (rate(ray_s2d_circuit[5m]))")
    with pytest.raises(AssertionError):
        test_rates_are_of_counters_and_counters_are_in_rates("sum (ray_s2d_hops_total)")
    with pytest.raises(AssertionError):
        test_a_mean_is_one_counter_over_its_own_other_one(
            "rate(ray_s2d_hop_seconds_total[5m]) / rate(ray_s2d_rounds_total[5m])"
        )


def test_every_series_is_asked_for_somewhere() -> None:
    """A metric that no panel shows is seen by nobody."""
    asked = {series.name for _, expr in QUERIES for series, _ in metrics_in(expr)}
    assert EVERY.keys() - asked == set()


@each_dashboard
def test_a_dashboard_is_what_grafana_takes(dashboard: Dashboard) -> None:
    """Ids differ, panels do not lie on each other, and each says how it is read."""
    page = json.loads(file_of(dashboard))
    panels = page["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(places)) == len(places)
    assert max(x for x, _ in places) < COLUMNS
    for panel in panels:
        if panel["type"] != "row":
            assert panel["title"]
            assert panel["description"].endswith(".")
            assert panel["fieldConfig"]["defaults"]["unit"]
            references = [target["refId"] for target in panel["targets"]]
            assert len(set(references)) == len(references) > 0


@each_dashboard
def test_a_dashboard_has_every_variable_that_its_queries_use(dashboard: Dashboard) -> None:
    page = document(dashboard)
    names = {variable["name"] for variable in page["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]+)\b", json.dumps(page["panels"])))
    assert used <= names
    assert {"datasource", "namespace"} <= names


def test_addresses_and_titles_of_dashboards_differ() -> None:
    pages = [document(dashboard) for dashboard in DASHBOARDS]
    assert len({page["uid"] for page in pages}) == len({page["title"] for page in pages}) == 5


def test_gpu_panels_say_that_nobody_has_checked_them() -> None:
    gpus = {series.name for series in OF_RAY_ON_GPUS}
    for dashboard in DASHBOARDS:
        for panel in dashboard.panels:
            named = {s.name for query in panel.queries for s, _ in metrics_in(query.expr)}
            assert bool(named & gpus) == panel.unchecked
            assert ("nchecked" in panel.text) == panel.unchecked


@pytest.mark.parametrize("series", OF_RAY, ids=lambda series: series.name)
def test_ray_tells_what_we_ask_of_it(series: Series) -> None:
    """By a page of its own exporter, recorded with the release that is pinned."""
    recorded = (Path(__file__).parent / "data" / "ray-metrics.txt").read_text()
    [labels] = re.findall(rf"^{series.name}\{{(.*)\}} ", recorded, re.MULTILINE)
    assert {*series.labels} <= set(re.findall(r'(\w+)="', labels))
    assert f"# TYPE {series.name} {series.kind}" in recorded


@each_dashboard
def test_every_panel_is_explained_in_the_docs(dashboard: Dashboard) -> None:
    """Made by `panels.table`; a panel that is added without its row fails here."""
    text = (ROOT / "docs" / "dashboards.md").read_text()
    assert table(dashboard) in text
    assert dashboard.title in text
