"""Statuses as the KubeRay operator writes them, and what is to be said of each."""

from __future__ import annotations

from typing import Any

from s2d_ray.kube.state import Verdict

WHEN = "2026-11-24T00:00:00Z"


def condition(kind: str, true: bool, reason: str, message: str = "") -> dict[str, Any]:
    """One condition."""
    return {
        "type": kind,
        "status": "True" if true else "False",
        "reason": reason,
        "message": message,
        "lastTransitionTime": WHEN,
    }


def running(name: str, *, target: str = "RUNNING", message: str = "") -> dict[str, Any]:
    """The status of one cluster, whose one target is in this state."""
    healthy = "HEALTHY" if target == "RUNNING" else "UNHEALTHY"
    return {
        "rayClusterName": name,
        "rayClusterStatus": {"desiredWorkerReplicas": 4, "readyWorkerReplicas": 3},
        "applicationStatuses": {
            "router": {
                "status": "RUNNING",
                "serveDeploymentStatuses": {"router": {"status": "HEALTHY"}},
            },
            "target-a": {
                "status": target,
                "message": message,
                "serveDeploymentStatuses": {"target": {"status": healthy, "message": message}},
            },
        },
    }


def service(status: dict[str, Any], generation: int = 1) -> dict[str, Any]:
    """A RayService with a status."""
    return {"metadata": {"name": "s2d-ray", "generation": generation}, "status": status}


READY = condition("Ready", True, "NonZeroServeEndpoints")
WAITING = condition("Ready", False, "Initializing", "no cluster yet")
UPGRADE = condition("UpgradeInProgress", True, "BothActivePendingClustersExist")

STATUSES: dict[str, tuple[dict[str, Any], Verdict, str]] = {
    "nothing yet": ({}, Verdict.WAITING, "has not seen this version"),
    "pending": (
        {"conditions": [WAITING], "pendingServiceStatus": running("one", target="DEPLOYING")},
        Verdict.WAITING,
        "not ready: Initializing: no cluster yet",
    ),
    "ready": (
        {
            "conditions": [READY, condition("UpgradeInProgress", False, "NoPendingCluster")],
            "activeServiceStatus": running("one"),
            "numServeEndpoints": 2,
        },
        Verdict.READY,
        "ready",
    ),
    "unhealthy": (
        {"conditions": [READY], "activeServiceStatus": running("one", target="UNHEALTHY")},
        Verdict.WAITING,
        "target-a is UNHEALTHY",
    ),
    "upgrade": (
        {
            "conditions": [READY, UPGRADE],
            "activeServiceStatus": running("one"),
            "pendingServiceStatus": running("two", target="DEPLOYING"),
        },
        Verdict.WAITING,
        "an upgrade to two is under way",
    ),
    "upgrade that cannot start": (
        {
            "conditions": [READY, UPGRADE],
            "activeServiceStatus": running("one"),
            "pendingServiceStatus": running(
                "two", target="DEPLOY_FAILED", message="Traceback\nModelError: no such model"
            ),
        },
        Verdict.FAILED,
        "target-a cannot start: ModelError: no such model",
    ),
    "rolled back": (
        {"conditions": [READY, condition("RollbackInProgress", True, "Rollback")]},
        Verdict.FAILED,
        "takes the upgrade back",
    ),
    "refused": (
        {"conditions": [condition("Ready", False, "ValidationFailed", "name too long")]},
        Verdict.FAILED,
        "ValidationFailed: name too long",
    ),
    "suspended": (
        {"conditions": [condition("Suspended", True, "Suspended")]},
        Verdict.FAILED,
        "suspended",
    ),
}
"""Name -> (status, verdict, words of its reason)."""

for _status, _, _ in STATUSES.values():
    if _status:
        _status["observedGeneration"] = 1
