"""A cluster on this machine, and a config deployed on it."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from s2d_ray.config import AppConfig

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

os.environ |= {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    "RAY_DEDUP_LOGS": "1",
    # Ray's own value, 15, gives replicas next to nothing of a machine that does anything else.
    "RAY_worker_niceness": "0",
}
os.environ.pop("RAY_ADDRESS", None)


OBJECT_STORE_BYTES = 80 * 2**20
LOGICAL_CPUS = 16


def _node(labels: Mapping[str, str]) -> dict[str, Any]:
    """Arguments of a node of the cluster."""
    return {
        "num_cpus": LOGICAL_CPUS,
        "labels": dict(labels),
        "object_store_memory": OBJECT_STORE_BYTES,
    }


def add_raylet(cluster: Cluster, labels: Mapping[str, str]) -> None:
    """Another node. Ray gives it 30 s to start, which is not enough on a busy machine."""
    for last in (False, False, True):
        try:
            cluster.add_node(**_node(labels))
            return
        except Exception:  # Ray raises no other class here
            if last:
                raise


@contextlib.contextmanager
def deployed(
    config: AppConfig,
    head: Mapping[str, str] | None = None,
    raylets: Sequence[Mapping[str, str]] = (),
) -> Iterator[Cluster]:
    """The config on a cluster that ends with this; its targets answer.

    head: labels of its first node; by default that is every place. raylets: labels of other nodes.
    """
    import ray
    from ray.cluster_utils import Cluster

    from s2d_ray.serve import deploy
    from s2d_ray.serve.places import labels_of_all

    with (
        tempfile.TemporaryDirectory(prefix="s2d-", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as monkeypatch,
    ):
        # The cluster leaves its address in this folder; the default one may belong to another Ray.
        monkeypatch.setenv("RAY_TMPDIR", folder)
        temp_dir = Path(folder) / "ray"
        temp_dir.mkdir()
        cluster = Cluster(
            initialize_head=True,
            head_node_args={
                **_node(labels_of_all(config) if head is None else head),
                "include_dashboard": False,
                "temp_dir": str(temp_dir),
            },
        )
        try:
            for labels in raylets:
                add_raylet(cluster, labels)
            ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
            deploy.deploy(config)
            deploy.wait_until_ready(config, lambda line: None)
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()
