"""The rendered RayService on the current server of custom resources: unknown fields and rules."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from s2d_ray.errors import ClusterError
from s2d_ray.kube.client import Cluster
from s2d_ray.kube.manifest import Item
from tests.kube.rendering import PRESETS, custom_resource, manifests, of_kind
from tests.kube.servers import cluster_of, custom_resource_server, until_served


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with custom_resource_server() as server:
        cluster_of(server).apply(Item(custom_resource("ray.io_rayservices")))
        until_served(server, Item(service("quickstart")))
        yield cluster_of(server)


def service(preset: str) -> dict[str, Any]:
    return copy.deepcopy(of_kind(manifests(preset), "RayService"))


@pytest.mark.parametrize("preset", PRESETS)
def test_each_preset_is_taken_with_no_unknown_field(preset: str, cluster: Cluster) -> None:
    item = Item(service(preset))
    assert cluster.apply(item)["spec"]["excludeHeadPodFromServeSvc"] is True
    cluster.delete(item)


@pytest.mark.parametrize(
    "path", [("spec",), ("spec", "rayClusterConfig"), ("spec", "rayClusterConfig", "authOptions")]
)
def test_an_unknown_field_is_refused_by_name(path: tuple[str, ...], cluster: Cluster) -> None:
    body = service("quickstart")
    section = body
    for part in path:
        section = section[part]
    section["misspelt"] = True
    with pytest.raises(ClusterError) as caught:
        cluster.apply(Item(body))
    assert ".".join((*path, "misspelt")) in caught.value.message
    assert caught.value.message.startswith("RayService s2d-ray: ")


def test_a_broken_rule_is_told_in_the_rule_s_words(cluster: Cluster) -> None:
    body = service("quickstart")
    body["spec"]["managedBy"] = "somebody"
    with pytest.raises(ClusterError, match="the managedBy field value must be either"):
        cluster.apply(Item(body))


def test_a_value_of_the_wrong_type_is_refused(cluster: Cluster) -> None:
    body = service("quickstart")
    body["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["minReplicas"] = "two"
    with pytest.raises(ClusterError, match="minReplicas"):
        cluster.apply(Item(body))
