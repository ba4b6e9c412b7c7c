"""One cluster and one deployment of the quickstart, shared by all tests of this folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from s2d_ray.config import LogFormat, TelemetryConfig, Traces
from tests.ports import free_port
from tests.serve.cluster import deployed
from tests.serve.service import PLACEMENT, QUICKSTART, Service


@pytest.fixture(scope="package")
def service(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The quickstart on a cluster of one head node, its draft alive; it ends with this folder.

    It logs in JSON, and traces who asks for it.
    """
    from s2d_ray.models.draft_files import ensure_draft

    assert QUICKSTART.draft is not None
    config = QUICKSTART.model_copy(
        update={
            "targets": {
                name: target.model_copy(update={"placement": PLACEMENT})
                for name, target in QUICKSTART.targets.items()
            },
            "http": QUICKSTART.http.model_copy(update={"port": free_port()}),
            "draft": QUICKSTART.draft.model_copy(update={"health_timeout_s": 3.0}),
            "telemetry": TelemetryConfig(
                log_format=LogFormat.JSON,
                traces=Traces.FILE,
                traces_dir=str(tmp_path_factory.mktemp("spans")),
            ),
        }
    )
    ensure_draft(QUICKSTART.draft)
    with (
        deployed(config) as cluster,
        contextlib.closing(Service(config, cluster)) as service,
    ):
        service.wait_for_draft()
        yield service
