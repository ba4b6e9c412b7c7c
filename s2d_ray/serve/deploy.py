"""From the config to running applications, through Serve's declarative path."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.context import _get_global_client
from ray.serve.schema import ApplicationStatus, ServeDeploySchema

from s2d_ray.config import (
    AppConfig,
    DraftConfig,
    EngineConfig,
    LogFormat,
    TargetConfig,
    TenancyConfig,
    as_written,
)
from s2d_ray.errors import ModelError, RunError
from s2d_ray.serve.places import label_of
from s2d_ray.serve.replicas import target_app

POLL_S = 0.25
APPS = "s2d_ray.serve.apps"
ROUTER = "router"
NOT_ARGUMENTS = {
    *("num_replicas", "autoscaling", "surge", "placement"),
    *("num_routers", "max_open_requests"),
}
"""Keys that go under `deployments:`, where a new number restarts nothing."""


def render(config: AppConfig, *, cluster_has_gpus: bool) -> dict[str, Any]:
    """The Serve config of the whole system. Arguments hold only what a user wrote (design D14)."""
    applications = [
        _target(name, config, cluster_has_gpus=cluster_has_gpus) for name in config.targets
    ]
    if config.draft is not None:
        gpus = _num_gpus(config.draft, cluster_has_gpus=cluster_has_gpus)
        applications.insert(
            0,
            {
                "name": "draft",
                "route_prefix": None,
                "import_path": f"{APPS}:build_draft",
                "args": {
                    "draft": as_written(config.draft),
                    "num_gpus": gpus,
                    **_telemetry(config),
                },
            },
        )
    if config.tenancy is not None:
        applications.append(_ledger(config, config.tenancy))
    applications.append(
        {
            "name": ROUTER,
            "route_prefix": "/",
            "import_path": f"{APPS}:build_router",
            "args": _router_args(config),
            "deployments": [
                {
                    "name": "router",
                    "num_replicas": config.http.num_routers,
                    "max_ongoing_requests": config.http.max_open_requests,
                    "graceful_shutdown_timeout_s": config.http.drain_s,
                    "user_config": _router_settings(config),
                }
            ],
        }
    )
    return {
        "proxy_location": "HeadOnly",
        "http_options": {"host": config.http.host, "port": config.http.port},
        **_logging(config),
        "applications": applications,
    }


def _target(name: str, config: AppConfig, *, cluster_has_gpus: bool) -> dict[str, Any]:
    target = config.targets[name]
    args: dict[str, Any] = {
        "target": {k: v for k, v in as_written(target).items() if k not in NOT_ARGUMENTS},
        **_telemetry(config),
    }
    if config.draft is not None:
        args["draft"] = _deadlines(config.draft)
    gpus = _num_gpus(target, cluster_has_gpus=cluster_has_gpus)
    actor_options: dict[str, Any] = {"num_cpus": 0 if gpus else 1, "num_gpus": gpus}
    if target.placement is not None:
        actor_options["label_selector"] = label_of(target.placement)
    return {
        "name": target_app(name),
        "route_prefix": None,
        "import_path": f"{APPS}:build_target",
        "args": args,
        "deployments": [
            {
                "name": "target",
                **_replicas(target),
                "max_surge_percent": target.max_surge_percent,
                "max_ongoing_requests": target.max_ongoing_requests,
                "graceful_shutdown_timeout_s": config.http.drain_s,
                "ray_actor_options": actor_options,
                "user_config": _target_settings(config),
            }
        ],
    }


def _target_settings(config: AppConfig) -> dict[str, Any]:
    """What targets take over while they run (`reins.py`)."""
    settings: dict[str, Any] = {"control": as_written(config.control)}
    if config.plans is not None:
        settings["plans"] = config.plans
    return settings


def _replicas(target: TargetConfig) -> dict[str, Any]:
    """How many: a number, or all that Serve's autoscaler must know."""
    if target.autoscaling is None:
        return {"num_replicas": target.num_replicas}
    return {"autoscaling_config": target.autoscaling.serve_options(target.max_batch)}


def _router_args(config: AppConfig) -> dict[str, Any]:
    args: dict[str, Any] = {
        "http": {k: v for k, v in as_written(config.http).items() if k not in NOT_ARGUMENTS},
        **_telemetry(config),
    }
    if config.tenancy is not None:
        args["max_wait_s"] = config.tenancy.max_wait_s
        args["local_texts"] = config.tenancy.local_texts
    return args


def _telemetry(config: AppConfig) -> dict[str, Any]:
    """The argument of every application that logs requests and makes spans of them."""
    telemetry = as_written(config.telemetry)
    return {"telemetry": telemetry} if telemetry else {}


def _logging(config: AppConfig) -> dict[str, Any]:
    """How all of Serve logs, if not as it does by itself."""
    is_json = config.telemetry.log_format is LogFormat.JSON
    return {"logging_config": {"encoding": "JSON"}} if is_json else {}


def _router_settings(config: AppConfig) -> dict[str, Any]:
    """What routers take over while they run (`router_settings.py`)."""
    settings: dict[str, Any] = {
        "targets": {
            name: {
                "model": target.model,
                "max_context": target.max_context,
                "default_max_tokens": target.default_max_tokens,
                "slots": target.max_batch * target.most_replicas,
            }
            for name, target in config.targets.items()
        },
        "has_draft": config.draft is not None,
        "plan": as_written(config.plan),
    }
    if config.routing is not None:
        settings["routing"] = as_written(config.routing)
    if config.plans is not None:
        settings["plans"] = config.plans
    return settings


def _ledger(config: AppConfig, tenancy: TenancyConfig) -> dict[str, Any]:
    return {
        "name": "ledger",
        "route_prefix": None,
        "import_path": f"{APPS}:build_ledger",
        "args": {
            "tenancy": as_written(tenancy),
            # Else the proxy would refuse, in plain text.
            "max_open": config.http.max_admitted,
            "batch_slots": {name: target.max_batch for name, target in config.targets.items()},
        },
        "deployments": [
            {
                "name": "ledger",
                # All that wait, and what routers tell beside.
                "max_ongoing_requests": config.http.max_open_requests + 1_000,
            }
        ],
    }


def _deadlines(draft: DraftConfig) -> dict[str, int]:
    return {"deadline_ms": draft.deadline_ms, "force_deadline_ms": draft.force_deadline_ms}


def _num_gpus(engine: EngineConfig, *, cluster_has_gpus: bool) -> int:
    wants = engine.device == "cuda" or (engine.device == "auto" and cluster_has_gpus)
    if not wants:
        return 0
    return engine.num_gpus if isinstance(engine, TargetConfig) else 1


def deploy(config: AppConfig) -> None:
    """Hand the applications to Serve's controller; returns before they run.

    Raises RunError if Serve refuses the schema.
    """
    has_gpus = ray.cluster_resources().get("GPU", 0) > 0
    deploy_document(render(config, cluster_has_gpus=has_gpus))


def deploy_document(document: dict[str, Any]) -> None:
    """Hand a Serve config to the controller, which is started if need be. Raises RunError."""
    schema = ServeDeploySchema.model_validate(document)
    try:
        serve.start(
            proxy_location=schema.proxy_location,
            http_options={"host": schema.http_options.host, "port": schema.http_options.port},
            logging_config=schema.logging_config,
        )
    except RayError as error:
        raise RunError(f"Ray Serve did not start: {type(error).__name__} of its proxy") from error
    client = _get_global_client()
    if client is None:
        raise RunError("Ray Serve did not start")
    # The public way in is the dashboard's REST API, which a laptop does not run.
    client.deploy_apps(schema)


def end_router(timeout_s: float) -> None:
    """Take no more requests, and wait until those there are have ended, or `timeout_s` is over.

    To be called before Serve is shut down, which would end targets, ledger and router together.
    """
    if ROUTER not in serve.status().applications:
        return
    serve.delete(ROUTER, _blocking=False)
    deadline_s = time.monotonic() + timeout_s
    while ROUTER in serve.status().applications and time.monotonic() < deadline_s:
        time.sleep(POLL_S)


def wait_until_ready(config: AppConfig, report: Callable[[str], None]) -> None:
    """Block until every target, the router and the ledger run. The draft may come later or never.

    Raises ModelError if an application cannot start, with the last line of its reason.
    """
    started_s = time.monotonic()
    waited_for = {*map(target_app, config.targets), ROUTER}
    if config.tenancy is not None:
        waited_for.add("ledger")
    while waited_for:
        for name, app in serve.status().applications.items():
            if app.status == ApplicationStatus.DEPLOY_FAILED:
                raise ModelError(f"{name} cannot start: {_last_line(app)}")
            if name in waited_for and app.status == ApplicationStatus.RUNNING:
                waited_for.discard(name)
                report(f"{name} runs after {time.monotonic() - started_s:.1f} s")
        time.sleep(POLL_S)


def _last_line(app: Any) -> str:
    messages = [app.message, *(d.message for d in app.deployments.values())]
    lines: list[str] = [
        line.strip() for message in messages for line in message.splitlines() if line.strip()
    ]
    named = [line for line in lines if "Error" in line]
    return (named or lines or ["no reason given"])[-1]
