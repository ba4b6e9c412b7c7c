"""The replicas of one target, as Serve keeps them: starting, running, draining."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from s2d_ray.simulate.clock import Clock
from s2d_ray.simulate.draft import SharedDraft
from s2d_ray.simulate.replica import Engine, Replica
from s2d_ray.simulate.request import Request


@dataclass(frozen=True)
class Count:
    """Replicas from this time on. draining ones take nothing new and still run."""

    time_s: float
    running: int
    starting: int
    draining: int


class Pool:
    """Sends each request to the emptier one of two random replicas, as Serve's router does.

    Without a replica requests are queued. counts: all changes. opened_s: when the newest replica
    began to run. gone: replicas that ended.
    """

    def __init__(
        self,
        clock: Clock,
        engine: Engine,
        draft: SharedDraft | None,
        *,
        start_s: float,
        num_replicas: int,
        draw: random.Random,
        ended: Callable[[Request], None],
    ) -> None:
        """start_s: from the decision to have a replica until it runs; the first ones do."""
        self._clock = clock
        self._engine = engine
        self._draft = draft
        self._start_s = start_s
        self._draw = draw
        self._ended = ended
        self._starting: list[object] = []
        self._draining: set[Replica] = set()
        self.gone: list[Replica] = []
        self.queue: deque[Request] = deque()
        self.counts: list[Count] = []
        self.opened_s = 0.0
        self.running: list[Replica] = [self._make() for _ in range(num_replicas)]
        self._count()

    @property
    def target(self) -> int:
        """Replicas that run or will."""
        return len(self.running) + len(self._starting)

    @property
    def num_slots(self) -> int:
        """Batch slots of the replicas that run."""
        return self._engine.max_batch * len(self.running)

    @property
    def replicas(self) -> list[Replica]:
        """All there ever were."""
        return [*self.running, *self._draining, *self.gone]

    def send(self, request: Request) -> None:
        """Give a request to a replica, or queue it."""
        if not self.running:
            self.queue.append(request)
            return
        if len(self.running) == 1:
            best = self.running[0]
        else:
            best = min(self._draw.sample(self.running, 2), key=lambda each: each.num_ongoing)
        best.take(request)

    def scale_to(self, target: int) -> None:
        """Start replicas, or let some drain: those that start first, then the emptiest ones."""
        if target == self.target:
            return
        while self.target < target:
            self._start()
        while self.target > target and self._starting:
            self._starting.pop()
        if self.target > target:
            self.running.sort(key=lambda each: each.num_ongoing, reverse=True)
            leaving = self.running[target:]
            del self.running[target:]
            self._draining.update(each for each in leaving if each.num_ongoing)
            self.gone += [each for each in leaving if not each.num_ongoing]
        self._count()

    def _start(self) -> None:
        ticket = object()
        self._starting.append(ticket)

        def run() -> None:
            if ticket in self._starting:
                self._starting.remove(ticket)
                self.running.append(self._make())
                self.opened_s = self._clock.now_s
                self._count()
                while self.queue:
                    self.send(self.queue.popleft())

        self._clock.at(self._clock.now_s + self._start_s, run)

    def _make(self) -> Replica:
        return Replica(self._clock, self._engine, self._draft, self._one_ended)

    def _one_ended(self, replica: Replica, request: Request) -> None:
        if replica in self._draining and not replica.num_ongoing:
            self._draining.remove(replica)
            self.gone.append(replica)
            self._count()
        self._ended(request)

    def _count(self) -> None:
        running, starting = len(self.running), len(self._starting)
        self.counts.append(Count(self._clock.now_s, running, starting, len(self._draining)))
