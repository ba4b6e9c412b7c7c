"""A cluster of one node in this process, and a config deployed on it."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from s2d_ray.config import AppConfig

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


@contextlib.contextmanager
def deployed(config: AppConfig) -> Iterator[None]:
    """The config on a cluster that ends with this; its targets answer."""
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
                "num_cpus": 16,
                "labels": labels_of_all(config),
                "object_store_memory": 80 * 2**20,
                "include_dashboard": False,
                "temp_dir": str(temp_dir),
            },
        )
        try:
            ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
            deploy.deploy(config)
            deploy.wait_until_ready(config, lambda line: None)
            yield
        finally:
            ray.shutdown()
            cluster.shutdown()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
