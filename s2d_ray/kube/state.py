"""What a RayService's status says: to a person, and to somebody who waits for it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from s2d_ray.kube.manifest import Body

RUNNING = "RUNNING"
FATAL_REASONS = {"ValidationFailed", "InitializingTimeout"}


class Verdict(Enum):
    """Whether waiting is over."""

    READY = "ready"
    WAITING = "waiting"
    FAILED = "failed"


@dataclass(frozen=True)
class Application:
    """One Serve application; deployments that are not well, with what they say."""

    name: str
    status: str
    message: str
    unwell: tuple[str, ...]


@dataclass(frozen=True)
class ClusterState:
    """One Ray cluster of a RayService: the one that serves, or the next."""

    name: str
    applications: tuple[Application, ...]
    pods_ready: int
    pods_wanted: int


@dataclass(frozen=True)
class ServiceState:
    """A RayService at one moment."""

    name: str
    is_current: bool
    conditions: Mapping[str, tuple[bool, str, str]]  # type -> (true, reason, message)
    active: ClusterState | None
    pending: ClusterState | None
    num_endpoints: int

    def holds(self, condition: str) -> bool:
        """Whether a condition is true."""
        return self.conditions.get(condition, (False, "", ""))[0]


def read_state(service: Body) -> ServiceState:
    """The state in an object from the API server."""
    status = service.get("status") or {}
    generation = service["metadata"].get("generation", 0)
    return ServiceState(
        name=service["metadata"]["name"],
        is_current=status.get("observedGeneration", -1) >= generation,
        conditions={
            item["type"]: (item["status"] == "True", item["reason"], item.get("message", ""))
            for item in status.get("conditions") or []
        },
        active=_cluster(status.get("activeServiceStatus")),
        pending=_cluster(status.get("pendingServiceStatus")),
        num_endpoints=status.get("numServeEndpoints", 0),
    )


def _cluster(status: Body | None) -> ClusterState | None:
    if not status or not status.get("rayClusterName"):
        return None
    pods = status.get("rayClusterStatus") or {}
    applications = status.get("applicationStatuses") or {}
    return ClusterState(
        name=status["rayClusterName"],
        applications=tuple(_application(name, app) for name, app in sorted(applications.items())),
        pods_ready=pods.get("readyWorkerReplicas", 0),
        pods_wanted=pods.get("desiredWorkerReplicas", 0),
    )


def _application(name: str, status: Body) -> Application:
    deployments = status.get("serveDeploymentStatuses") or {}
    return Application(
        name=name,
        status=status.get("status", "NOT_STARTED"),
        message=_last_line(status.get("message", "")),
        unwell=tuple(
            f"{key} is {found.get('status')}: {_last_line(found.get('message', ''))}".rstrip(": ")
            for key, found in sorted(deployments.items())
            if found.get("status") != "HEALTHY"
        ),
    )


def _last_line(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def verdict(state: ServiceState) -> tuple[Verdict, str]:
    """Whether a service serves what was applied last, and why not."""
    if not state.is_current:
        return Verdict.WAITING, "the operator has not seen this version yet; does it run?"
    if state.holds("Suspending") or state.holds("Suspended"):
        return Verdict.FAILED, "it is suspended"
    if state.holds("RollbackInProgress"):
        return Verdict.FAILED, "the operator takes the upgrade back"
    ready, reason, message = state.conditions.get("Ready", (False, "", ""))
    if not ready and reason in FATAL_REASONS:
        return Verdict.FAILED, f"{reason}: {message}"
    newest = state.pending or state.active
    for application in newest.applications if newest else ():
        if application.status == "DEPLOY_FAILED":
            return Verdict.FAILED, f"{application.name} cannot start: {application.message}"
    if state.holds("UpgradeInProgress"):
        return Verdict.WAITING, f"an upgrade to {_name(state.pending)} is under way"
    if not ready:
        return Verdict.WAITING, f"not ready: {reason}: {message}" if reason else "not ready"
    missing = [app for app in (newest.applications if newest else ()) if app.status != RUNNING]
    if missing:
        return Verdict.WAITING, ", ".join(f"{app.name} is {app.status}" for app in missing)
    return Verdict.READY, "ready"


def _name(cluster: ClusterState | None) -> str:
    return cluster.name if cluster else "another cluster"


def describe(state: ServiceState) -> list[str]:
    """The state for a person: verdict, conditions that say something, clusters, applications."""
    _, reason = verdict(state)
    lines = [f"{state.name}: {reason}; {state.num_endpoints} pods take requests"]
    lines += [
        f"  {kind}: {why}{': ' if message else ''}{message}"
        for kind, (true, why, message) in sorted(state.conditions.items())
        if true or kind == "Ready"
    ]
    for word, cluster in (("serving", state.active), ("coming", state.pending)):
        if cluster is not None:
            lines.append(
                f"  {word}: {cluster.name}, {cluster.pods_ready} of {cluster.pods_wanted} workers"
            )
            lines += _application_lines(cluster)
    return lines


def _application_lines(cluster: ClusterState) -> Iterator[str]:
    for app in cluster.applications:
        said = f": {app.message}" if app.message and app.status != RUNNING else ""
        yield f"    {app.name}: {app.status}{said}"
        yield from (f"      {line}" for line in app.unwell)


def describe_load(health: Any) -> list[str]:
    """What the API's `/health` says of load: the draft, and each target's queue."""
    targets = health.get("targets", {})
    lines = [f"  {name}: {_load(target)}" for name, target in sorted(targets.items())]
    draft = health.get("draft")
    if draft is not None:
        lines.append(f"  draft: {'alive' if draft.get('alive') else 'away; decoding plainly'}")
    return lines


def _load(target: Any) -> str:
    """Replicas of a target, and the queue of the one that was asked: no other one is known of."""
    if not target.get("ready"):
        return "not ready"
    counters = target.get("counters", {})
    replicas, queue = counters.get("replicas"), counters.get("queue_depth", 0)
    if replicas == 0:
        return "no replica; the next request starts one"
    if replicas is None:
        return f"queue of a replica {queue}"
    return f"{replicas} replicas, queue of one {queue}" if replicas > 1 else f"queue {queue}"
