"""Which changes restart what, by name."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from s2d_ray.changes import Effect
from s2d_ray.kube.changes import changes_of
from tests.kube.rendering import Manifest, manifests, of_kind

ROOM = "--set=placements.cpu.max=4"


def service(*options: str) -> Manifest:
    """Of the quickstart, with room for what the tests add to it."""
    found = of_kind(manifests("quickstart", ROOM, *options), "RayService")
    return copy.deepcopy(found)


def named(live: Any, wanted: Any) -> dict[str, Effect]:
    prefix = "RayService s2d-ray: "
    return {change.what.removeprefix(prefix): change.effect for change in changes_of(live, wanted)}


@pytest.mark.parametrize(
    ("option", "changes"),
    [
        ("--set=network.policy.enabled=true", {}),
        (
            "--set=config.targets.smollm2-135m.max_batch=4",
            {
                "application target-smollm2-135m": Effect.RESTART,
                "application router": Effect.LIVE,
            },
        ),
        (
            "--set=config.targets.smollm2-135m.num_replicas=2",
            {
                "application target-smollm2-135m": Effect.IN_PLACE,
                "application router": Effect.LIVE,
            },
        ),
        (
            "--set=config.routing.splits.prod.smollm2-135m=1",
            {"application router": Effect.LIVE},
        ),
        ("--set=config.plan.max_proposal=2", {"application router": Effect.LIVE}),
        (
            "--set=config.targets.smollm2-135m.autoscaling.max_replicas=2",
            {
                "application target-smollm2-135m": Effect.RESTART,
                "application router": Effect.LIVE,
            },
        ),
        (
            "--set=config.http.max_open_requests=9",
            {"application router": Effect.IN_PLACE},
        ),
        (
            "--set=config.targets.more.model=hub:a/b,config.targets.more.placement=cpu",
            {"application target-more": Effect.STARTED, "application router": Effect.LIVE},
        ),
        (
            "--set=config.draft.deadline_ms=9",
            {
                "application draft": Effect.RESTART,
                "application target-smollm2-135m": Effect.RESTART,
                "application target-smollm2-135m-int8": Effect.RESTART,
            },
        ),
        (
            "--set-json=config.draft={}",
            {
                "number of pods of draft": Effect.IN_PLACE,
                "application draft": Effect.ENDED,
                "application target-smollm2-135m": Effect.RESTART,
                "application target-smollm2-135m-int8": Effect.RESTART,
                "application router": Effect.LIVE,
            },
        ),
        (
            "--set=router.replicas=3",
            {
                "number of pods of router": Effect.IN_PLACE,
                "application router": Effect.IN_PLACE,
            },
        ),
        ("--set=placements.cpu.max=3", {"number of pods of cpu": Effect.IN_PLACE}),
        (
            "--set=placements.cpu.resources.limits.cpu=4",
            {"pods of cpu": Effect.NEW_CLUSTER},
        ),
        ("--set=head.nodeSelector.disk=fast", {"the cluster or its head": Effect.NEW_CLUSTER}),
        (
            '--set-json=placements.late={"min":1,"max":1,"resources":{"limits":{"cpu":1,"memory":"1Gi"}}}',
            {"pods of late come along": Effect.IN_PLACE},
        ),
    ],
)
def test_a_change_is_named_with_its_class(option: str, changes: dict[str, Effect]) -> None:
    assert named(service(), service(option)) == changes


@pytest.mark.parametrize(
    ("key", "effects"),
    [
        ("max_replicas=3", [Effect.IN_PLACE, Effect.LIVE]),  # routers weigh by most replicas
        ("min_replicas=0", [Effect.IN_PLACE]),
        ("target_ongoing_requests=3", [Effect.IN_PLACE]),
        ("target_outstanding_tokens=9000", [Effect.RESTART]),  # another policy
    ],
)
def test_how_a_target_scales_is_changed_in_place(key: str, effects: list[Effect]) -> None:
    where = "config.targets.smollm2-135m.autoscaling"
    before = service(f"--set={where}.max_replicas=2")
    after = service(f"--set={where}.max_replicas=2,{where}.{key}")
    parts = ["application target-smollm2-135m", "application router"]
    assert named(before, after) == dict(zip(parts, effects, strict=False))


def test_a_target_that_is_left_out_ends() -> None:
    """And the router, which told of it, is told so."""
    more = service("--set=config.targets.more.model=hub:a/b,config.targets.more.placement=cpu")
    assert named(more, service()) == {
        "application router": Effect.LIVE,
        "application target-more": Effect.ENDED,
    }


def test_a_group_that_is_not_the_last_makes_a_new_cluster() -> None:
    """KubeRay takes over groups that come behind the others, and no others."""
    option = (
        '--set-json=placements.a={"min":1,"max":1,"resources":{"limits":{"cpu":1,"memory":"1Gi"}}}'
    )
    assert named(service(), service(option)) == {"pods of a": Effect.NEW_CLUSTER}


def test_options_of_serve_itself_wait_for_the_next_cluster() -> None:
    wanted = service()
    document = json.loads(wanted["spec"]["serveConfigV2"])
    document["http_options"]["keep_alive_timeout_s"] = 5
    wanted["spec"]["serveConfigV2"] = json.dumps(document)
    assert named(service(), wanted) == {"options of Serve itself": Effect.NEXT_CLUSTER}


def test_a_document_written_otherwise_is_the_same() -> None:
    wanted = service()
    wanted["spec"]["serveConfigV2"] = json.dumps(json.loads(wanted["spec"]["serveConfigV2"]))
    assert changes_of(service(), wanted) == []


def test_labels_and_what_only_the_server_writes_are_told_apart() -> None:
    live = service()
    live["metadata"] |= {"resourceVersion": "7", "managedFields": [], "generation": 3}
    live["status"] = {"observedGeneration": 3}
    assert changes_of(live, service()) == []
    assert named(service(), service("--set=extraLabels.team=a")) == {
        "the cluster or its head": Effect.NEW_CLUSTER,
        "pods of router, control, draft, cpu": Effect.NEW_CLUSTER,
        "labels and options": Effect.LIVE,
    }


def test_what_is_not_there_is_created() -> None:
    [change] = changes_of(None, service())
    assert str(change) == "RayService s2d-ray: created"


def test_other_objects_change_live() -> None:
    live, wanted = (
        of_kind(manifests("quickstart", *options), "ConfigMap")
        for options in ((), ("--set=config.plan.max_proposal=2",))
    )
    assert changes_of(live, live) == []
    assert [change.effect for change in changes_of(live, wanted)] == [Effect.LIVE]
