"""The Serve applications: the only place where classes become deployments and actors.

Serve imports this module in a task of its own for each changed application, so it loads no torch.
Each builder takes its own subtree of the config as arguments, and nothing else: a change there
restarts this application alone. Annotations stay objects here, for Serve to validate by.
"""

import asyncio
import logging
from functools import partial
from typing import Any

import ray
from fastapi import FastAPI
from pydantic import BaseModel, ValidationError
from ray import serve
from ray.serve import Application

from s2d_ray.config import HttpConfig, TelemetryConfig
from s2d_ray.errors import ConfigError
from s2d_ray.serve.draft_actor import DraftActor
from s2d_ray.serve.draft_manager import DraftManager
from s2d_ray.serve.forever import MOST_TENANTS, TELL_EVERY_S, forever
from s2d_ray.serve.ingress import build_app
from s2d_ray.serve.ledger import LedgerReplica
from s2d_ray.serve.ledger_link import ServeLedger, running_slots
from s2d_ray.serve.metrics import ray_meter
from s2d_ray.serve.places import CONTROL, DRAFT, ROUTER, label_of
from s2d_ray.serve.router import Router
from s2d_ray.serve.router_metrics import RouterTeller
from s2d_ray.serve.router_settings import RouterSettings
from s2d_ray.serve.target import TargetReplica
from s2d_ray.serve.tenant_gate import TenantGate
from s2d_ray.serve.tracing import exporter

logger = logging.getLogger("ray.serve")

CONSTRUCTOR_TRIES = 3
CALLS_IN_FLIGHT = 1_000
LOOK_EVERY_S = 0.2
"""How often a replica that is to end looks whether its requests have ended; Serve's is 2 s."""


class TargetArgs(BaseModel):
    """Arguments of a target application; `draft` holds the deadlines of its calls, if any."""

    target: dict[str, Any]
    draft: dict[str, int] | None = None
    telemetry: dict[str, Any] = {}


class DraftArgs(BaseModel):
    """Arguments of the draft application."""

    draft: dict[str, Any]
    num_gpus: int = 0
    telemetry: dict[str, Any] = {}


class RouterArgs(BaseModel):
    """Arguments of the router application; what changes while it runs is in `RouterSettings`.

    max_wait_s: of a request at the ledger; None: there is no ledger, and no tenants.
    local_texts: that a router runs by itself while the ledger is away.
    """

    http: dict[str, Any] = {}
    max_wait_s: float | None = None
    local_texts: int = 0
    telemetry: dict[str, Any] = {}


class LedgerArgs(BaseModel):
    """Arguments of the ledger application. batch_slots: of one replica of each target."""

    tenancy: dict[str, Any]
    max_open: int
    batch_slots: dict[str, int]


def build_target(args: TargetArgs) -> Application:
    """One target. Its options with numbers come from the `deployments:` part of the schema."""
    deployment = serve.deployment(
        name="target",
        max_constructor_retry_count=CONSTRUCTOR_TRIES,
        graceful_shutdown_wait_loop_s=LOOK_EVERY_S,
    )(TargetReplica)
    return deployment.bind(args.target, args.draft, args.telemetry)


def create_draft_actor(config: dict[str, Any], num_gpus: int, telemetry: dict[str, Any]) -> Any:
    """The draft actor: an ordinary child of whoever creates it."""
    remote: Any = ray.remote  # its types know neither of the two concurrency options
    actor_class = remote(
        num_cpus=0 if num_gpus else 1,
        num_gpus=num_gpus,
        label_selector=label_of(DRAFT),
        max_concurrency=CALLS_IN_FLIGHT,
        concurrency_groups={"health": 2},
    )(DraftActor)
    return actor_class.remote(config, telemetry)


def build_draft(args: DraftArgs) -> Application:
    """The draft manager; the draft actor is its child."""
    deployment = serve.deployment(
        name="manager",
        max_ongoing_requests=CALLS_IN_FLIGHT,
        graceful_shutdown_timeout_s=2,
        graceful_shutdown_wait_loop_s=LOOK_EVERY_S,
        ray_actor_options={"num_cpus": 0, "label_selector": label_of(CONTROL)},
    )(DraftManager)
    create = partial(create_draft_actor, num_gpus=args.num_gpus, telemetry=args.telemetry)
    return deployment.bind(args.draft, create, ray_meter())


class Ingress:
    """The HTTP edge as a deployment: the app is built on the replica, around its router."""

    def __init__(self, args: RouterArgs) -> None:
        self._args = args
        export = exporter(TelemetryConfig.model_validate(args.telemetry), ROUTER)
        self._teller = RouterTeller(ray_meter(), MOST_TENANTS, export)
        self._router = Router(self._teller.failed_over)
        self._has_settings = False
        self._telling: asyncio.Task[None] | None = None

    def __serve_build_asgi_app__(self) -> FastAPI:
        args = self._args
        http = HttpConfig.model_validate(args.http)
        gate = None
        if args.max_wait_s is not None:
            gate = TenantGate(ServeLedger(), args.max_wait_s, args.local_texts)
        # Serve's proxy answers x-request-id by itself.
        return build_app(self._router, http, gate, observer=self._teller, answers_request_id=False)

    async def reconfigure(self, settings: dict[str, Any]) -> None:
        """Serve hands over a new `user_config`, before the first request and whenever it changes.

        Serve would replace a replica that fails here, and its successor would fail too.
        """
        if self._telling is None:
            self._telling = asyncio.create_task(forever(TELL_EVERY_S, self._tell))
        try:
            self._router.take(RouterSettings.model_validate(settings))
            self._has_settings = True
        except (ConfigError, ValidationError) as error:
            if not self._has_settings:
                raise
            logger.error("the router's settings stay as they were: %s", error)

    async def _tell(self) -> None:
        self._teller.tell(await self._router.replicas())


def build_ledger(args: LedgerArgs) -> Application:
    """The ledger, which admits requests: one replica, no torch."""
    deployment = serve.deployment(
        name="ledger",
        health_check_period_s=1,  # a dead one is noticed by this, and requests wait for the next
        graceful_shutdown_timeout_s=2,
        graceful_shutdown_wait_loop_s=LOOK_EVERY_S,
        ray_actor_options={"num_cpus": 0, "label_selector": label_of(CONTROL)},
    )(LedgerReplica)
    slots_of = partial(running_slots, args.batch_slots)
    return deployment.bind(args.tenancy, args.max_open, slots_of, ray_meter())


def build_router(args: RouterArgs) -> Application:
    """The router and HTTP edge, the only application with a route."""
    deployment = serve.deployment(
        name="router",
        graceful_shutdown_wait_loop_s=LOOK_EVERY_S,
        ray_actor_options={"num_cpus": 0, "label_selector": label_of(ROUTER)},
    )(serve.ingress()(Ingress))
    return deployment.bind(args)
