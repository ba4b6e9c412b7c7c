"""The router: the HTTP edge's backend over Serve handles."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
)

from s2d_ray.core.cascade import Plan
from s2d_ray.engine.messages import Event, GenerateRequest, Prompt, Refused, Tokens
from s2d_ray.errors import Unavailable, UnknownModel
from s2d_ray.serve.backend import Health, Routing, TargetHealth, TargetInfo, refusal
from s2d_ray.serve.cluster_metrics import cluster_metrics
from s2d_ray.serve.failover import ReplicaLost, unbroken
from s2d_ray.serve.link import DraftStatus
from s2d_ray.serve.plan_watch import WatchedPlans
from s2d_ray.serve.replicas import Replicas, ReplicaWatch, target_app
from s2d_ray.serve.router_settings import RouterSettings
from s2d_ray.serve.target import TargetStatus

logger = logging.getLogger("ray.serve")

STATUS_TIMEOUT_S = 1.0
STATUS_AGE_S = 0.5
ALIVE_AGE_S = 5.0
"""What was heard of targets longer ago is not chosen by."""
ASLEEP = TargetHealth(ready=True, draft_circuit="none", counters={"replicas": 0})
"""Of a target without replicas that starts one for the next request; it cannot be asked."""


class Router:
    """Finds targets by application name, lazily: a target may be deployed after the router.

    What it tells of targets, and routes by, it is told anew whenever the config changes.
    """

    def __init__(self, on_failover: Callable[[str], None]) -> None:
        """on_failover: is told the target of each stream that another replica took over."""
        self._has_draft = False
        self._infos: dict[str, TargetInfo] = {}
        self._routing = Routing(Plan(), {})
        self._handles: dict[str, Any] = {}
        self._writers: dict[str, Any] = {}
        self._num_failovers: Counter[str] = Counter()
        self._on_failover = on_failover
        self._replicas = ReplicaWatch()
        self._plans: WatchedPlans | None = None
        self._health: Health | None = None
        self._health_at_s = 0.0
        self._asking = asyncio.Lock()
        self._looking: asyncio.Task[Health] | None = None

    def take(self, settings: RouterSettings) -> None:
        """Go by other settings from now on. Raises ConfigError, and goes on by the old ones."""
        routing = settings.to_routing()
        if settings.plans is None:
            self._plans = None
        elif self._plans is None or self._plans.path != Path(settings.plans):
            self._plans = WatchedPlans(Path(settings.plans))
        now = int(time.time())
        self._infos = {
            name: facts.to_info(name, self._infos[name].created if name in self._infos else now)
            for name, facts in settings.targets.items()
        }
        self._routing = routing
        self._has_draft = settings.has_draft
        self._handles, self._writers = {}, {}  # a target that went and came back is another one
        self._health = None

    def targets(self) -> Mapping[str, TargetInfo]:
        """The configured targets."""
        return self._infos

    def routing(self) -> Routing:
        """What requests are routed by."""
        if self._plans is None:
            return self._routing
        rules = replace(self._routing.rules, learned=self._plans.plan_of)
        return replace(self._routing, rules=rules)

    async def alive(self) -> Collection[str]:
        """Targets that answered lately: what was heard last, while it is asked again."""
        now_s = time.monotonic()
        if self._health is None or now_s - self._health_at_s > ALIVE_AGE_S:
            health = await self.health()
        else:
            health = self._health
            if now_s - self._health_at_s > STATUS_AGE_S and not self._asking.locked():
                self._looking = asyncio.create_task(self.health())
        return [name for name, target in health.targets.items() if target.ready]

    def generate(self, target: str, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        """Stream one request from a replica of its target, and from others if that one is lost."""
        attempt, on_failover = partial(self._attempt, target), partial(self._count, target)
        return unbroken(request, attempt, on_failover)

    async def _attempt(self, target: str, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        """Stream one request from some replica. Raises ReplicaLost or RequestError."""
        bundles = self._writer(target).remote(request)
        try:
            async for bundle in bundles:
                for event in bundle:
                    yield event
        except BackPressureError:
            raise Unavailable(f"the queue of {target!r} is full", code="queue_full") from None
        except DeploymentUnavailableError:
            raise Unavailable(f"target {target!r} cannot start", code="not_ready") from None
        except (RayError, RayServeException) as error:
            raise ReplicaLost(f"{type(error).__name__} of target {target!r}") from error
        finally:
            bundles.cancel()

    def _count(self, target: str) -> None:
        self._num_failovers[target] += 1
        self._on_failover(target)

    async def tokenize(self, target: str, prompt: Prompt) -> Tokens:
        """The ids of a prompt, from some replica of the target."""
        tokens: Tokens = await self._call(target, "tokenize", prompt)
        return tokens

    async def detokenize(self, target: str, token_ids: Sequence[int]) -> str:
        """The text of some ids, from some replica of the target."""
        text: str = await self._call(target, "detokenize", tuple(token_ids))
        return text

    async def metrics(self) -> str:
        """What the exporters of all nodes of the cluster tell, merged."""
        return await cluster_metrics()

    async def health(self) -> Health:
        """State of targets and draft, at most half a second old."""
        async with self._asking:
            if self._health is None or time.monotonic() - self._health_at_s > STATUS_AGE_S:
                self._health = await self._ask_health()
                self._health_at_s = time.monotonic()
        return self._health

    async def _ask_health(self) -> Health:
        names = list(self._infos)
        replicas = await self._replicas.now(names)
        asleep = {name for name, found in replicas.items() if found.asleep}
        awake = [name for name in names if name not in asleep]
        *statuses, draft = await asyncio.gather(
            *(self._ask(target_app(name)) for name in awake), self._ask("draft")
        )
        answers = dict(zip(awake, statuses, strict=True))
        targets = {
            name: ASLEEP
            if name in asleep
            else _target_health(answers[name], self._num_failovers[name], replicas.get(name))
            for name in names
        }
        alive = isinstance(draft, DraftStatus) and draft.alive
        return Health(
            ready=any(target.ready for target in targets.values()),
            degraded=self._has_draft and not alive,
            targets=targets,
            draft=vars(draft) if isinstance(draft, DraftStatus) else {"alive": False},
        )

    async def replicas(self) -> dict[str, float]:
        """Running replicas of each target that the controller tells of now."""
        found = await self._replicas.now(list(self._infos))
        return {name: replicas.num_running for name, replicas in found.items()}

    async def _ask(self, app: str) -> object | None:
        """One application's status, or None if it does not answer soon."""
        if app == "draft" and not self._has_draft:
            return None
        response = None
        try:
            response = self._handle(app).status.remote()
            async with asyncio.timeout(STATUS_TIMEOUT_S):
                status: object = await response
            return status
        except Exception:  # not deployed, starting, dying: all mean "not now"
            if response is not None:
                response.cancel()
            return None

    async def _call(self, target: str, method: str, argument: object) -> Any:
        """One answer of a replica. Raises RequestError if it refuses or is lost."""
        try:
            result = await getattr(self._target(target), method).remote(argument)
        except (RayError, RayServeException) as error:
            logger.warning("target %s lost a call of %s: %s", target, method, error)
            raise Unavailable(f"a replica of {target!r} was lost", code="replica_lost") from None
        if isinstance(result, Refused):
            raise refusal(result)
        return result

    def _target(self, target: str) -> Any:
        """The handle of a target's replicas."""
        if target not in self._infos:
            raise UnknownModel(f"there is no target {target!r}", param="model")
        try:
            return self._handle(target_app(target))
        except (RayError, RayServeException):
            raise Unavailable(f"target {target!r} is not deployed yet", code="not_ready") from None

    def _writer(self, target: str) -> Any:
        """The call that streams a text; kept, since Serve takes long to make one."""
        if target not in self._writers:
            writer = self._target(target).options(stream=True, method_name="generate")
            self._writers[target] = writer
        return self._writers[target]

    def _handle(self, app: str) -> Any:
        if app not in self._handles:
            self._handles[app] = serve.get_app_handle(app)
        return self._handles[app]


def _target_health(
    status: object | None, num_failovers: int, replicas: Replicas | None
) -> TargetHealth:
    if not isinstance(status, TargetStatus):
        return TargetHealth(ready=False)
    counters = {
        **({} if replicas is None else {"replicas": replicas.num_running}),
        **status.counters,
        "queue_depth": status.queue_depth,
        "failovers": num_failovers,
    }
    return TargetHealth(True, status.bitwise_exact, status.draft_circuit, counters, status.control)
