"""What applying an object changes, in the four classes of configuration (docs/configuration.md).

Pure: compares what the cluster has with what it would have.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from s2d_ray.kube.manifest import Body, Item, serve_document

COUNTS = ("replicas", "minReplicas", "maxReplicas")
LIVE_OPTIONS = {"user_config"}
IN_PLACE_OPTIONS = {
    "num_replicas",
    "max_ongoing_requests",
    "autoscaling_config",
    "graceful_shutdown_timeout_s",
}


class Effect(StrEnum):
    """What a change does to what runs."""

    CREATED = "created"
    LIVE = "live; nothing restarts"
    IN_PLACE = "in place; nothing restarts"
    STARTED = "an application starts"
    RESTART = "restart; the replicas of this application are replaced"
    ENDED = "an application ends"
    NEW_CLUSTER = "new cluster; it runs beside the old one until it is ready"
    NEXT_CLUSTER = "no effect before the next new cluster"


@dataclass(frozen=True)
class Change:
    """One thing that becomes different."""

    what: str
    effect: Effect

    def __str__(self) -> str:
        return f"{self.what}: {self.effect}"


def changes_of(live: Body | None, wanted: Body) -> list[Change]:
    """The changes from an object in the cluster (None: there is none) to the wanted one.

    Both come from the API server, so that its defaults are in both.
    """
    item = Item(wanted)
    if live is None:
        return [Change(str(item), Effect.CREATED)]
    if not item.is_service:
        same = _settled(live) == _settled(wanted)
        return [] if same else [Change(str(item), Effect.LIVE)]
    return [
        Change(f"{item}: {change.what}", change.effect)
        for change in (
            *_cluster_changes(_cluster(live), _cluster(wanted)),
            *_serve_changes(serve_document(live), serve_document(wanted)),
            *_other_changes(live, wanted),
        )
    ]


def _settled(body: Body) -> Body:
    """An object without what the server writes into it."""
    kept = {key: value for key, value in body.items() if key not in ("metadata", "status")}
    metadata = body["metadata"]
    return kept | {key: metadata.get(key) or {} for key in ("labels", "annotations")}


def _cluster(service: Body) -> Body:
    cluster: Body = service.get("spec", {}).get("rayClusterConfig", {})
    return cluster


def _cluster_changes(live: Body, wanted: Body) -> Iterator[Change]:
    """KubeRay takes over counts of groups, and groups added behind the others; all else is new."""
    before, after = copy.deepcopy(live), copy.deepcopy(wanted)
    old, new = before.pop("workerGroupSpecs", []), after.pop("workerGroupSpecs", [])
    counts = [{key: group.get(key) for key in COUNTS} for group in (*old, *new)]
    for group in (*old, *new):
        for key in COUNTS:
            group.pop(key, None)
    if before != after:
        yield Change("the cluster or its head", Effect.NEW_CLUSTER)
    if old != new[: len(old)]:
        names = _different_groups(old, new)
        yield Change(f"pods of {', '.join(names)}", Effect.NEW_CLUSTER)
        return
    for group, was, becomes in zip(old, counts, counts[len(old) :], strict=False):
        if was != becomes:
            yield Change(f"number of pods of {group['groupName']}", Effect.IN_PLACE)
    for group in new[len(old) :]:
        yield Change(f"pods of {group['groupName']} come along", Effect.IN_PLACE)


def _different_groups(old: list[Body], new: list[Body]) -> list[str]:
    before = {group["groupName"]: group for group in old}
    after = {group["groupName"]: group for group in new}
    names = [name for name in before | after if before.get(name) != after.get(name)]
    return names or ["all groups, which stand in another order"]


def _serve_changes(live: Any, wanted: Any) -> Iterator[Change]:
    before, after = _applications(live), _applications(wanted)
    for name in before | after:
        what = f"application {name}"
        if name not in before:
            yield Change(what, Effect.STARTED)
        elif name not in after:
            yield Change(what, Effect.ENDED)
        elif (effect := _application_effect(before[name], after[name])) is not None:
            yield Change(what, effect)
    rest = [{k: v for k, v in tree.items() if k != "applications"} for tree in (live, wanted)]
    if rest[0] != rest[1]:
        yield Change("options of Serve itself", Effect.NEXT_CLUSTER)


def _applications(document: Any) -> dict[str, Body]:
    return {app["name"]: app for app in document.get("applications", [])}


def _application_effect(live: Body, wanted: Body) -> Effect | None:
    if live == wanted:
        return None
    for effect, options in (
        (Effect.LIVE, LIVE_OPTIONS),
        (Effect.IN_PLACE, LIVE_OPTIONS | IN_PLACE_OPTIONS),
    ):
        if _without(options, live) == _without(options, wanted):
            return effect
    return Effect.RESTART


def _without(options: set[str], application: Body) -> Body:
    """An application without these options of its deployments.

    The policy of an autoscaling_config stays: Serve takes it for a part of the code.
    """
    deployments = {
        deployment["name"]: {k: v for k, v in deployment.items() if k not in options}
        | {"policy": (deployment.get("autoscaling_config") or {}).get("policy")}
        for deployment in application.get("deployments", [])
    }
    return {**application, "deployments": deployments}


def _other_changes(live: Body, wanted: Body) -> Iterator[Change]:
    parts = []
    for body in (live, wanted):
        settled = _settled(body)
        spec = dict(settled.pop("spec", {}))
        for key in ("rayClusterConfig", "serveConfigV2"):
            spec.pop(key, None)
        parts.append((settled, spec))
    if parts[0] != parts[1]:
        yield Change("labels and options", Effect.LIVE)
