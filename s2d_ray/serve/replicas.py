"""How many replicas of each target there are, as Serve's controller sees it: asks no replica."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ray import serve
from ray.serve.schema import ApplicationStatusOverview

LOOK_TIMEOUT_S = 1.0


@dataclass(frozen=True)
class Replicas:
    """Of one target. asleep: there is none, and none is on its way: the next request starts one."""

    num_running: int = 0
    asleep: bool = False


def target_app(name: str) -> str:
    """Name of a target's Serve application."""
    return f"target-{name}"


def name_of(app: str) -> str:
    """The target whose application this is."""
    return app.removeprefix(target_app(""))


def replicas_of(targets: Iterable[str]) -> dict[str, Replicas]:
    """Replicas of each target; none of one that is not deployed. Blocks."""
    apps = serve.status().applications
    return {name: _replicas(apps.get(target_app(name))) for name in targets}


def _replicas(app: ApplicationStatusOverview | None) -> Replicas:
    deployment = app.deployments.get("target") if app else None
    if deployment is None:
        return Replicas()
    # Plain strings, whatever its type says.
    states = {str(state): num for state, num in deployment.replica_states.items() if num}
    return Replicas(states.get("RUNNING", 0), not states and deployment.status == "HEALTHY")


class ReplicaWatch:
    """How many replicas targets have now, without asking one, since that wakes who sleeps."""

    def __init__(
        self, look: Callable[[Iterable[str]], Mapping[str, Replicas]] = replicas_of
    ) -> None:
        """look: as `replicas_of`; runs in a thread."""
        self._look = look
        self._looking: asyncio.Task[Mapping[str, Replicas]] | None = None

    async def now(self, targets: Iterable[str]) -> dict[str, Replicas]:
        """Of those among `targets` that are known; of none while the controller does not answer,
        for then nobody wakes them."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(asyncio.to_thread(self._look, tuple(targets)))
        looking = self._looking  # one thread at a time, however long it hangs
        await asyncio.wait([looking], timeout=LOOK_TIMEOUT_S)
        if not looking.done() or looking.exception() is not None:
            return {}
        found = looking.result()
        return {name: found[name] for name in targets if name in found}
