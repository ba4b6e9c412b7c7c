"""The whole service on a virtual clock: arrivals, the ledger, targets, scaling.

What the service does once a second, or when a request ends, happens here as often: routers renew
their grants, the ledger looks for slots, replicas report.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from s2d_ray.policy.fair_queue import Ask
from s2d_ray.policy.ledger import Bounds, Granted, Held, Ledger
from s2d_ray.policy.limits import Limits
from s2d_ray.policy.scaling import ScalingRule, TargetLoad
from s2d_ray.simulate.autoscaler import CONTROL_S, Autoscaler, Rhythm
from s2d_ray.simulate.clock import Clock
from s2d_ray.simulate.draft import SharedDraft
from s2d_ray.simulate.pool import Pool
from s2d_ray.simulate.replica import Engine
from s2d_ray.simulate.request import Arrival, Request

SYNC_S = 1.0
"""Routers tell the ledger of their open grants, and it looks at the running replicas, so often."""

BYTES_PER_TOKEN = 4
"""Of a body that waits."""


@dataclass(frozen=True)
class Scaling:
    """How the replicas of a target follow its load."""

    rule: ScalingRule
    rhythm: Rhythm


@dataclass(frozen=True)
class Target:
    """One target. num_replicas: at the start, and for ever without scaling."""

    engine: Engine
    num_replicas: int
    scaling: Scaling | None = None


@dataclass(frozen=True)
class Service:
    """All that is simulated.

    max_wait_s: a request that waits longer at the ledger is refused. start_s: of a replica.
    draft: makes the one draft of a run; None: plain decoding.
    """

    targets: Mapping[str, Target]
    tenants: Mapping[str, Limits]
    bounds: Bounds
    max_wait_s: float
    start_s: float = 0.0
    draft: Callable[[], SharedDraft] | None = None


class Simulation:
    """One run. requests: all that have arrived. The same seed gives the same run."""

    def __init__(self, service: Service, arrivals: Iterator[Arrival], seed: int) -> None:
        """arrivals: in order of time."""
        self.clock = Clock()
        self.requests: list[Request] = []
        self.ledger = Ledger(service.bounds, service.tenants, "simulated", 0.0)
        self._service = service
        self._arrivals = arrivals
        self._open: dict[str, Request] = {}
        self.draft = service.draft() if service.draft else None
        draw = random.Random(seed)
        self.pools = {
            name: Pool(
                self.clock,
                target.engine,
                self.draft,
                start_s=service.start_s,
                num_replicas=target.num_replicas,
                draw=draw,
                ended=self._finish,
            )
            for name, target in service.targets.items()
        }
        self._autoscalers: dict[str, Autoscaler] = {}
        self._tell_slots()
        self.clock.every(SYNC_S, self._sync)
        for name, target in service.targets.items():
            if target.scaling is not None:
                self._scale(name, target.scaling)
        self._next_arrival()

    def run(self, until_s: float) -> None:
        """Go on until this time."""
        self.clock.run(until_s)

    def load(self, target: str) -> TargetLoad:
        """What a target has to do at this moment, as replicas and handles would report it."""
        pool = self.pools[target]
        # Replicas tell what the ledger holds; without one nobody does.
        held = self.ledger.held(target) if pool.running else Held(0, 0)
        return TargetLoad(
            sum(replica.num_ongoing for replica in pool.running),
            len(pool.queue),
            held.num_texts,
            sum(replica.outstanding_tokens for replica in pool.running),
            held.tokens,
        )

    def _next_arrival(self) -> None:
        arrival = next(self._arrivals, None)
        if arrival is not None:
            self.clock.at(arrival.at_s, lambda: self._arrive(arrival))

    def _arrive(self, arrival: Arrival) -> None:
        now_s = self.clock.now_s
        name = str(len(self.requests))
        self.requests.append(Request(arrival))
        ask = Ask(
            name,
            arrival.tenant,
            arrival.target,
            arrival.prompt_tokens + arrival.max_tokens,
            now_s + self._service.max_wait_s,
            1,
            BYTES_PER_TOKEN * arrival.prompt_tokens,
            now_s,
        )
        self.ledger.admit(ask, now_s)
        self._decide()
        self._next_arrival()

    def _decide(self) -> None:
        now_s = self.clock.now_s
        for decision in self.ledger.decide(now_s):
            name = decision.grant.id if isinstance(decision, Granted) else decision.id
            request = self.requests[int(name)]
            if isinstance(decision, Granted):
                request.grant, request.granted_s = decision.grant, now_s
                self._open[name] = request
                self._send(request)
            else:
                request.reason = decision.reason

    def _send(self, request: Request) -> None:
        target = request.arrival.target
        pool = self.pools[target]
        pool.send(request)
        if not pool.running and target in self._autoscalers:
            # A handle that has no replica tells at once that something waits.
            self._record(target)
            self._autoscalers[target].push()

    def _finish(self, request: Request) -> None:
        grant = request.grant
        assert grant is not None
        del self._open[grant.id]
        used = request.arrival.prompt_tokens + request.arrival.output_tokens
        self.ledger.finish(grant, used, self.clock.now_s)
        if self.ledger.num_waiting:
            self._decide()

    def _sync(self) -> None:
        grants = [request.grant for request in self._open.values() if request.grant is not None]
        self.ledger.renew(grants, self.clock.now_s)
        self._tell_slots()
        self._decide()

    def _tell_slots(self) -> None:
        """A target that sleeps has one slot: whoever is let through wakes it."""
        self.ledger.set_slots(
            {name: pool.num_slots if pool.target else 1 for name, pool in self.pools.items()}
        )

    def _record(self, name: str) -> None:
        self._autoscalers[name].record(self.load(name), self.clock.now_s)

    def _scale(self, name: str, scaling: Scaling) -> None:
        pool = self.pools[name]
        autoscaler = self._autoscalers[name] = Autoscaler(scaling.rule, scaling.rhythm)

        def decide() -> None:
            now_s = self.clock.now_s
            target = autoscaler.decide(len(pool.running), pool.target, pool.opened_s, now_s)
            pool.scale_to(target)

        self.clock.every(scaling.rhythm.record_s, lambda: self._record(name))
        self.clock.every(scaling.rhythm.push_s, autoscaler.push)
        self.clock.every(CONTROL_S, decide)
