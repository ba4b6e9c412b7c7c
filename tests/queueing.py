"""A target on a virtual clock behind the real ledger: one step writes a token of each running text.

The replica takes granted requests first come, first served, as Serve and the engine do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from s2d_ray.policy.fair_queue import Ask
from s2d_ray.policy.grants import Grant
from s2d_ray.policy.ledger import Bounds, Granted, Ledger
from s2d_ray.policy.limits import Limits, Refusal

TARGET = "target"
STEP_S = 0.05
MANY = Bounds(max_open=10**6, max_waiting_bytes=10**9)


@dataclass
class Running:
    grant: Grant
    steps_left: int


@dataclass
class Line:
    """What happened, in order: ("arrived" | "granted" | "left", ask)."""

    events: list[tuple[str, Ask]] = field(default_factory=list)
    arrived_step: dict[str, int] = field(default_factory=dict)
    started_step: dict[str, int] = field(default_factory=dict)
    refused: list[Refusal] = field(default_factory=list)


class VirtualTarget:
    """One replica with `slots` batch slots."""

    def __init__(self, tenants: Mapping[str, Limits], slots: int, bounds: Bounds = MANY) -> None:
        self.ledger = Ledger(bounds, tenants, "first", 0.0)
        self.ledger.set_slots({TARGET: slots})
        self.line = Line()
        self.step = 0
        self.num_full_steps = 0
        self._slots = slots
        self._asks: dict[str, Ask] = {}
        self._queue: deque[Grant] = deque()
        self._running: list[Running] = []
        self._num_steps: dict[str, int] = {}

    @property
    def now_s(self) -> float:
        return self.step * STEP_S

    def ask(
        self, tenant: str, tokens: int, num_steps: int, wait_s: float = 1e9, num_texts: int = 1
    ) -> str:
        """A request arrives; it will run for `num_steps`."""
        name = f"{tenant}-{len(self._asks)}"
        ask = Ask(name, tenant, TARGET, tokens, self.now_s + wait_s, num_texts, 0, self.now_s)
        self._asks[name] = ask
        self._num_steps[name] = num_steps
        self.line.arrived_step[name] = self.step
        self.line.events.append(("arrived", ask))
        self.ledger.admit(ask, self.now_s)
        self._decide()
        return name

    def leave(self, name: str) -> None:
        """A client goes while its request waits."""
        if name not in self.line.started_step:
            self.line.events.append(("left", self._asks[name]))
            self.ledger.cancel(name, self.now_s)

    def run(self, num_steps: int = 1) -> None:
        for _ in range(num_steps):
            self._start()
            self.num_full_steps += len(self._running) == self._slots
            self.step += 1
            for running in self._running:
                running.steps_left -= 1
            for running in [r for r in self._running if r.steps_left <= 0]:
                self._running.remove(running)
                self.ledger.finish(running.grant, running.grant.tokens, self.now_s)
            self.ledger.renew([r.grant for r in self._running], self.now_s)
            self.ledger.renew(self._queue, self.now_s)
            self._decide()

    def waits(self, tenant: str) -> list[int]:
        """Steps from arrival to start, of all requests of a tenant that started."""
        return [
            step - self.line.arrived_step[name]
            for name, step in self.line.started_step.items()
            if self._asks[name].tenant == tenant
        ]

    def _start(self) -> None:
        while self._queue and len(self._running) < self._slots:
            grant = self._queue.popleft()
            self._running.append(Running(grant, self._num_steps[grant.id]))
            self.line.started_step[grant.id] = self.step

    def _decide(self) -> None:
        for decision in self.ledger.decide(self.now_s):
            if isinstance(decision, Granted):
                self.line.events.append(("granted", self._asks[decision.grant.id]))
                self._queue.append(decision.grant)
            else:
                self.line.events.append(("left", self._asks[decision.id]))
                self.line.refused.append(decision)
