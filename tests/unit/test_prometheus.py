"""What a real Prometheus makes of the dashboards and alerts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from s2d_ray.observe.alerts import ALERTS
from s2d_ray.observe.grafana import document
from s2d_ray.observe.pages import DASHBOARDS
from tests.exposition import Exporter
from tests.prometheus import Prometheus, concrete, watching

WINDOW_S = 5
SCRAPES = 3


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """It has read some pages of an exporter that tells every series there is."""
    with (
        Exporter() as exporter,
        watching(exporter.url, tmp_path_factory.mktemp("prometheus")) as found,
    ):
        found.wait_until(lambda: found.num_scrapes() >= SCRAPES, f"{SCRAPES} scrapes")
        yield found


def test_every_query_of_a_dashboard_returns_data(prometheus: Prometheus) -> None:
    """A wrong name, label, type or syntax of any of them would leave its panel empty."""
    assert prometheus.silent(WINDOW_S) == []


def test_a_misspelt_metric_is_found_silent(prometheus: Prometheus) -> None:
    """Else the test above could not fail."""
    assert prometheus.query("sum (ray_s2d_open_request)") == []


def test_every_variable_of_a_dashboard_has_values(prometheus: Prometheus) -> None:
    """All but the namespace, which only the Prometheus operator adds."""
    for dashboard in DASHBOARDS:
        for variable in document(dashboard)["templating"]["list"]:
            if variable["name"] in ("datasource", "namespace"):
                continue
            query = variable["query"]["query"]
            metric, label = query.removeprefix("label_values(").removesuffix(")").rsplit(", ", 1)
            selector = concrete(metric, WINDOW_S)
            assert prometheus.ask(f"label/{label}/values", **{"match[]": selector}) != []


def test_every_rule_can_be_evaluated_and_a_healthy_service_alarms_nobody(
    prometheus: Prometheus,
) -> None:
    """The first evaluations see a service that has just appeared, as after an installation."""

    def evaluated() -> bool:
        [group] = prometheus.ask("rules")["groups"]
        return all(rule["health"] == "ok" for rule in group["rules"])

    prometheus.wait_until(evaluated, "every rule is evaluated without an error")
    [group] = prometheus.ask("rules")["groups"]
    assert [rule["name"] for rule in group["rules"]] == [alert.name for alert in ALERTS]
    assert prometheus.alerts("firing") == set()
    assert prometheus.alerts("pending") == set()
