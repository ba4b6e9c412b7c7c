"""What a change of a Serve document does to what runs: the classes of docs/configuration.md.

Pure: compares two documents. `s2d check --diff` asks it about two configs, `s2d kube diff` about
what a cluster has and what it would have.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

Body = dict[str, Any]

LIVE_OPTIONS = {"user_config"}
"""Options of a deployment that its running replicas are told of."""

IN_PLACE_OPTIONS = {
    "num_replicas",
    "max_ongoing_requests",
    "autoscaling_config",
    "graceful_shutdown_timeout_s",
    "max_surge_percent",
}
"""Options of a deployment that Serve goes by without replacing a replica."""


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


def serve_changes(live: Any, wanted: Any) -> Iterator[Change]:
    """The changes from one Serve document to another, application by application."""
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
    """An application without some options of its deployments.

    The policy of an autoscaling_config stays: Serve takes it for a part of the code.
    """
    deployments = {
        deployment["name"]: {k: v for k, v in deployment.items() if k not in options}
        | {"policy": (deployment.get("autoscaling_config") or {}).get("policy")}
        for deployment in application.get("deployments", [])
    }
    return {**application, "deployments": deployments}
