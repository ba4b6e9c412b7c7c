"""One cluster and one deployment of the quickstart, shared by all tests of this folder."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ |= {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_DEDUP_LOGS": "1",
    # Ray's own value, 15, gives replicas next to nothing of a machine that does anything else.
    "RAY_worker_niceness": "0",
}
os.environ.pop("RAY_ADDRESS", None)

from tests.serve.service import PLACEMENT, QUICKSTART, Service  # noqa: E402  (the variables come first)


@pytest.fixture(scope="package")
def service(smollm2: Path) -> Iterator[Service]:
    """The quickstart on a cluster of one head node, its draft alive; it ends with this folder."""
    import ray
    from ray.cluster_utils import Cluster

    from s2d_ray.models.draft_files import ensure_draft
    from s2d_ray.serve import deploy
    from s2d_ray.serve.places import labels_of_all

    assert QUICKSTART.draft is not None
    config = QUICKSTART.model_copy(
        update={
            "targets": {
                name: target.model_copy(update={"placement": PLACEMENT})
                for name, target in QUICKSTART.targets.items()
            },
            "http": QUICKSTART.http.model_copy(update={"port": _free_port()}),
            "draft": QUICKSTART.draft.model_copy(update={"health_timeout_s": 3.0}),
        }
    )
    ensure_draft(QUICKSTART.draft)
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
            service = Service(config)
            with contextlib.closing(service):
                service.wait_for_draft()
                yield service
        finally:
            ray.shutdown()
            cluster.shutdown()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
