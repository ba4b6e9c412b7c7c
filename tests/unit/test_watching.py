"""`make watch` itself: what counts as an answer, and as an alert that should not have been."""

from __future__ import annotations

import random
from typing import Any

from s2d_ray.observe.pages import DASHBOARDS
from tests import watching
from tests.watched import request


class Answers:
    """A Prometheus that knows some metrics, and of which some alerts fire."""

    def __init__(self, *metrics: str) -> None:
        self.metrics = metrics
        self.firing: set[str] = set()

    def query(self, expr: str) -> list[Any]:
        return [1] if any(metric in expr for metric in self.metrics) else []

    def alerts(self, state: str) -> set[str]:
        return self.firing if state == "firing" else set()


def test_a_query_that_had_data_once_is_not_silent() -> None:
    prometheus = Answers("ray_s2d_draft_up")
    seen = watching.Seen(prometheus)  # type: ignore[arg-type]
    num_queries = len(list(watching.queries()))
    seen.look()
    before = len(seen.silent())
    assert 0 < before < num_queries
    prometheus.metrics = ("ray_",)
    seen.look()
    prometheus.metrics = ()
    seen.look()
    assert seen.silent() == [("overview", "Now: Alerts", 0)]


def test_panels_that_are_unchecked_may_be_silent() -> None:
    seen = watching.Seen(Answers())  # type: ignore[arg-type]
    unchecked = [p.title for page in DASHBOARDS for p in page.panels if p.unchecked]
    titles = [panel for _, panel, _ in seen.silent()]
    assert not any(title == f"GPUs: {name}" for name in unchecked for title in titles)
    assert sum("unchecked" in line for line in seen.lines()) == len(unchecked)


def test_an_alert_that_has_fired_is_remembered() -> None:
    prometheus = Answers()
    seen = watching.Seen(prometheus)  # type: ignore[arg-type]
    prometheus.firing = {"S2DDraftDown"}
    seen.look()
    prometheus.firing = set()
    seen.look()
    assert seen.firing() == ["S2DDraftDown"]


def test_clients_leave_speculation_to_the_service() -> None:
    """Beside a row that insists nothing is measured, and the benefit's panels would stay empty."""
    draw = random.Random(1)
    assert all(set(request(draw, 80)["s2d"]) == {"task"} for _ in range(20))
