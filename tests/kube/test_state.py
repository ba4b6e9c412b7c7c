"""What is said of a RayService's status."""

from __future__ import annotations

from typing import Any

import pytest

from s2d_ray.kube.state import Verdict, describe, describe_load, read_state, verdict
from tests.kube.statuses import STATUSES, condition, running, service


@pytest.mark.parametrize("name", STATUSES)
def test_each_state_of_the_operator_has_its_verdict(name: str) -> None:
    status, found, words = STATUSES[name]
    assert verdict(read_state(service(status)))[0] is found
    assert words in verdict(read_state(service(status)))[1]


def test_a_version_that_the_operator_has_not_seen_is_waited_for() -> None:
    """However ready the version before it is."""
    status, _, _ = STATUSES["ready"]
    state = read_state(service(status, generation=2))
    assert verdict(state) == (
        Verdict.WAITING,
        "the operator has not seen this version yet; does it run?",
    )


def test_a_person_reads_clusters_applications_and_what_ails_them() -> None:
    status = {
        "observedGeneration": 1,
        "numServeEndpoints": 2,
        "conditions": [condition("Ready", True, "NonZeroServeEndpoints")],
        "activeServiceStatus": running("one", target="UNHEALTHY", message="lines\nlost a replica"),
    }
    assert describe(read_state(service(status))) == [
        "s2d-ray: target-a is UNHEALTHY; 2 pods take requests",
        "  Ready: NonZeroServeEndpoints",
        "  serving: one, 3 of 4 workers",
        "    router: RUNNING",
        "    target-a: UNHEALTHY: lost a replica",
        "      target is UNHEALTHY: lost a replica",
    ]


@pytest.mark.parametrize(
    ("counters", "words"),
    [
        ({"replicas": 1, "queue_depth": 3}, "queue 3"),
        ({"replicas": 2, "queue_depth": 3}, "2 replicas, queue of one 3"),
        ({"queue_depth": 3}, "queue of a replica 3"),
        ({"replicas": 0}, "no replica; the next request starts one"),
    ],
)
def test_replicas_and_queues_are_told_from_health(counters: dict[str, int], words: str) -> None:
    health = {"targets": {"a": {"ready": True, "counters": counters}, "b": {"ready": False}}}
    assert describe_load(health) == [f"  a: {words}", "  b: not ready"]


def test_the_draft_is_told_from_health() -> None:
    health: dict[str, Any] = {"targets": {}, "draft": {"alive": False}}
    assert describe_load(health) == ["  draft: away; decoding plainly"]
    assert describe_load({"targets": {}, "draft": {"alive": True}}) == ["  draft: alive"]
    assert describe_load({"targets": {}}) == []
