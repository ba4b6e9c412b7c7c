"""What chaos does to a running service, and how it sees that all of it is there again.

The product knows nothing of this. Processes are killed and stopped by signals. A delay of calls is
a process that is stopped and let go: whoever calls it waits so much longer.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import TYPE_CHECKING

import httpx
import psutil

from s2d_ray.config import AppConfig
from s2d_ray.serve.replicas import target_app
from s2d_ray.serve.run_file import ProcessMark, find, mark_of
from tests.serve.cluster import add_raylet

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

ROUTER = "router"
FAILOVERS = "s2d_failovers"
HEALTH_TIMEOUT_S = 5.0
NUM_DELAYS = 10
SHORTEST_DELAY_S, LONGEST_DELAY_S = 0.05, 0.5


class Part(Enum):
    """What may be whole or not."""

    DRAFT = "the draft"
    TARGETS = "all replicas of the targets"
    ROUTERS = "all routers"


class Kind(StrEnum):
    """What is done to the service."""

    DRAFT_KILLED = "draft killed"
    DRAFT_HUNG = "draft hung"
    TARGET_KILLED = "target replica killed"
    ROUTER_KILLED = "router killed"
    RAYLET_KILLED = "raylet killed"
    CALLS_DELAYED = "calls delayed"


TOUCHES: Mapping[Kind, frozenset[Part]] = {
    Kind.DRAFT_KILLED: frozenset({Part.DRAFT}),
    Kind.DRAFT_HUNG: frozenset({Part.DRAFT}),
    Kind.TARGET_KILLED: frozenset({Part.TARGETS}),
    Kind.ROUTER_KILLED: frozenset({Part.ROUTERS}),
    Kind.RAYLET_KILLED: frozenset(Part),
    Kind.CALLS_DELAYED: frozenset({Part.DRAFT, Part.TARGETS}),
}
"""Parts that must be whole before the fault, or it would take the last replica of something."""


class NotNow(Exception):
    """The fault would take the last replica of something."""


@dataclass(frozen=True)
class Site:
    """A running service and the processes it is made of. All of them are on this machine.

    cluster: any raylet of it but the head's may be killed. raylet: the labels of each.
    """

    config: AppConfig
    url: str
    cluster: Cluster
    raylet: Mapping[str, str]

    def strike(self, kind: Kind, rng: random.Random) -> frozenset[ProcessMark]:
        """Do it; -> processes that are lost by it. Raises NotNow."""
        strikes: dict[Kind, Callable[[random.Random], frozenset[ProcessMark]]] = {
            Kind.DRAFT_KILLED: lambda rng: self._signal_draft(signal.SIGKILL),
            Kind.DRAFT_HUNG: lambda rng: self._signal_draft(signal.SIGSTOP),
            Kind.TARGET_KILLED: self._kill_target,
            Kind.ROUTER_KILLED: self._kill_router,
            Kind.RAYLET_KILLED: self._kill_raylet,
            Kind.CALLS_DELAYED: self._delay_calls,
        }
        return strikes[kind](rng)

    def is_whole(self, part: Part, lost: frozenset[ProcessMark]) -> bool:
        """Whether this part is there again, without the processes that were lost."""
        if any(map(find, lost)):
            return False  # a hung one must end too
        if part is Part.DRAFT:
            return self._draft_pid() not in {None, *_pids(lost)}
        wanted = {ROUTER: self.config.http.num_routers}
        if part is Part.TARGETS:
            wanted = {target_app(n): t.num_replicas for n, t in self.config.targets.items()}
        running = self._running()  # as Serve believes; what is lost may still be among it
        return all(len(running[app] - _pids(lost)) == num for app, num in wanted.items())

    def is_all_whole(self) -> bool:
        """Whether nothing is missing."""
        return all(self.is_whole(part, frozenset()) for part in Part)

    def failovers(self) -> dict[str, float]:
        """Streams that another replica took over, by router and target, as last told."""
        with contextlib.suppress(httpx.HTTPError):
            text = httpx.get(f"{self.url}/metrics", timeout=HEALTH_TIMEOUT_S).text
            samples = (line.rsplit(" ", 1) for line in text.splitlines() if FAILOVERS in line)
            return {name: float(value) for name, value in samples if not name.startswith("#")}
        return {}

    def _draft_pid(self) -> int | None:
        """The process of a living draft that targets may ask."""
        with contextlib.suppress(httpx.HTTPError):
            answer = httpx.get(f"{self.url}/health", timeout=HEALTH_TIMEOUT_S)
            if answer.status_code == 200:
                draft = answer.json()["draft"]
                return draft["pid"] if draft.get("alive") else None
        return None

    def _running(self) -> dict[str, frozenset[int]]:
        """Processes of the replicas that Serve sends requests to, by application."""
        from ray.serve.context import _get_global_client

        client = _get_global_client()
        assert client is not None
        return {
            name: frozenset(
                replica["pid"]
                for deployment in app["deployments"].values()
                for replica in deployment["replicas"]
                if replica["state"] == "RUNNING"
            )
            for name, app in client.get_serve_details()["applications"].items()
        }

    def _signal_draft(self, number: signal.Signals) -> frozenset[ProcessMark]:
        pid = self._draft_pid()
        if pid is None:
            raise NotNow
        return _struck(pid, number)

    def _kill_one(self, pids: frozenset[int], rng: random.Random) -> frozenset[ProcessMark]:
        if len(pids) < 2:
            raise NotNow
        return _struck(rng.choice(sorted(pids)), signal.SIGKILL)

    def _kill_target(self, rng: random.Random) -> frozenset[ProcessMark]:
        running = self._running()
        doubled = [name for name, target in self.config.targets.items() if target.num_replicas > 1]
        return self._kill_one(running[target_app(rng.choice(doubled))], rng)

    def _kill_router(self, rng: random.Random) -> frozenset[ProcessMark]:
        return self._kill_one(self._running()[ROUTER], rng)

    def _kill_raylet(self, rng: random.Random) -> frozenset[ProcessMark]:
        """A raylet with all that runs on it; another one comes in its place at once."""
        running = self._running()
        apps = [ROUTER, *map(target_app, self.config.targets)]
        inhabitants = {
            node: _descendants(node.all_processes["raylet"][0].process.pid)
            for node in self.cluster.worker_nodes
        }
        spared = [
            node
            for node, marks in inhabitants.items()
            if marks and all(running[app] - _pids(marks) for app in apps)
        ]
        if not spared:
            raise NotNow
        used = frozenset().union(*running.values())
        node = max(spared, key=lambda node: len(_pids(inhabitants[node]) & used))
        self.cluster.remove_node(node, allow_graceful=False)
        add_raylet(self.cluster, self.raylet)
        return inhabitants[node]

    def _delay_calls(self, rng: random.Random) -> frozenset[ProcessMark]:
        """Draft and targets in turns, again and again for some seconds."""
        running = self._running()
        pids = [pid for name in self.config.targets for pid in sorted(running[target_app(name)])]
        draft = self._draft_pid()
        for number in range(NUM_DELAYS):
            pid = draft if draft is not None and number % 2 else rng.choice(pids)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                time.sleep(rng.uniform(SHORTEST_DELAY_S, LONGEST_DELAY_S))
                os.kill(pid, signal.SIGCONT)
            time.sleep(rng.uniform(0, LONGEST_DELAY_S))
        return frozenset()


def _descendants(pid: int) -> frozenset[ProcessMark]:
    marks = set()
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended in between
                marks.add(mark_of(process))
    return frozenset(marks)


def _pids(marks: frozenset[ProcessMark]) -> frozenset[int]:
    return frozenset(mark.pid for mark in marks)


def _struck(pid: int, number: signal.Signals) -> frozenset[ProcessMark]:
    """Send a process a signal. Raises NotNow if there is no such process any more."""
    try:
        mark = mark_of(psutil.Process(pid))
        os.kill(pid, number)
    except (psutil.Error, ProcessLookupError):
        raise NotNow from None
    return frozenset({mark})
