"""The Serve document in the Helm chart, deployed on a Ray cluster."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve.schema import ApplicationStatus

from s2d_ray.config import as_written
from s2d_ray.serve import deploy
from tests.kube.rendering import manifests, serve_document
from tests.serve.service import PATIENCE_S, PLACEMENT, TARGETS, Ask, Service


def rendered(service: Service, folder: Path) -> dict[str, Any]:
    """What the chart makes of the service's config, on the one node that is here."""
    config = as_written(service.config)
    config["http"] |= {"host": "0.0.0.0", "allow_unauthenticated": True}
    group = {"min": 1, "max": 2, "resources": {"limits": {"cpu": 2, "memory": "4Gi"}}}
    file = folder / "values.yaml"
    file.write_text(json.dumps({"config": config, "placements": {PLACEMENT: group}}))
    document = serve_document(manifests(str(file)))
    [router] = [app for app in document["applications"] if app["name"] == "router"]
    router["deployments"][0] |= {"num_replicas": 1}
    return document


def deployed_at_s() -> dict[str, float]:
    """When each application that runs was deployed last."""
    return {
        name: app.last_deployed_time_s
        for name, app in serve.status().applications.items()
        if app.status == ApplicationStatus.RUNNING
    }


def wait_for_deployment(after: dict[str, float]) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not all(deployed_at_s().get(name, 0.0) > before for name, before in after.items()):
        assert time.monotonic() < end_s, serve.status().applications
        time.sleep(0.1)


def test_the_document_of_the_chart_runs_and_answers(service: Service, tmp_path: Path) -> None:
    """And writes the same text as the one that `s2d serve` deploys."""
    asks = [Ask(target, "Name a colour.", mode="force") for target in TARGETS]
    texts = [reply["choices"][0]["message"] for reply in service.ask_all(asks)]
    before = deployed_at_s()
    assert len(before) == len(TARGETS) + 2
    deploy.deploy_document(rendered(service, tmp_path))
    try:
        wait_for_deployment(before)
        assert [reply["choices"][0]["message"] for reply in service.ask_all(asks)] == texts
    finally:
        before = deployed_at_s()
        deploy.deploy(service.config)
        wait_for_deployment(before)
        service.wait_for_draft()
