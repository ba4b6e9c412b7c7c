"""The draft manager: keeps one draft actor alive, and tells targets which one.

It is RUNNING without a draft, holds no model and loads no torch. The actor is its ordinary child,
so it ends with the manager; targets then decode plainly until the next manager has made another.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import ray

from s2d_ray.config import DraftConfig
from s2d_ray.observe.meter import Meter
from s2d_ray.serve.draft_actor import DraftHealth
from s2d_ray.serve.draft_metrics import DraftTeller
from s2d_ray.serve.forever import TELL_EVERY_S, forever
from s2d_ray.serve.host import node_id
from s2d_ray.serve.link import DraftLink, DraftStatus

logger = logging.getLogger("ray.serve")

HEALTH_PERIOD_S = 1.0
FIRST_BACKOFF_S = 1.0
LONGEST_BACKOFF_S = 30.0
HEALTHY_AFTER_S = 30.0
"""A draft that lived this long starts the backoff anew."""

CreateActor = Callable[[dict[str, Any]], Any]


class DraftManager:
    """Supervises the draft actor: create, watch, kill, create again with backoff, forever."""

    def __init__(self, config: dict[str, Any], create_actor: CreateActor, meter: Meter) -> None:
        self._raw_config = config
        self._config = DraftConfig.model_validate(config)
        self._create_actor = create_actor
        self._link: DraftLink | None = None
        self._health: DraftHealth | None = None
        self._num_starts = 0
        self._last_error: str | None = None
        self._teller = DraftTeller(meter)
        self._supervisor: asyncio.Task[None] | None = None
        self._telling: asyncio.Task[None] | None = None

    async def draft(self) -> DraftLink | None:
        """The living draft, or None. Targets ask once a second."""
        self._watch_on()
        return self._link

    async def status(self) -> DraftStatus:
        """For /health."""
        self._watch_on()
        health = self._health
        return DraftStatus(
            alive=self._link is not None,
            num_starts=self._num_starts,
            pid=health.pid if health else None,
            protocol_version=health.protocol_version if health else None,
            last_error=self._last_error,
            counters=health.counters if health else {},
            exit_layers=health.exit_layers if health else (),
        )

    async def check_health(self) -> None:
        """Serve's own check: the manager is well whenever it answers."""
        self._watch_on()

    def _watch_on(self) -> None:
        if self._supervisor is None or self._supervisor.done():
            self._supervisor = asyncio.get_running_loop().create_task(self._supervise())
        if self._telling is None:
            self._telling = asyncio.create_task(forever(TELL_EVERY_S, self._tell))

    async def _tell(self) -> None:
        self._teller.tell(self._num_starts, self._health, is_up=self._link is not None)

    async def _supervise(self) -> None:
        backoff_s = FIRST_BACKOFF_S
        while True:
            born_s = time.monotonic()
            try:
                await self._one_life()
            except Exception as error:  # whatever ended this draft, the next one is made
                self._last_error = str(error).strip().splitlines()[-1][:300]
                logger.warning("draft ended: %s", self._last_error)
            if time.monotonic() - born_s > HEALTHY_AFTER_S:
                backoff_s = FIRST_BACKOFF_S
            await asyncio.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, LONGEST_BACKOFF_S)

    async def _one_life(self) -> None:
        """Create an actor and watch it until it is dead or stuck; then make sure it is dead."""
        self._num_starts += 1
        actor = self._create_actor(self._raw_config)
        try:
            self._health = await self._ask_health(actor, self._config.start_timeout_s)
            self._link = DraftLink(actor, time.time_ns(), self._health.protocol_version)
            logger.info("draft is up, process %d", self._health.pid)
            while self._health.stuck_for_s < self._config.health_timeout_s:
                await asyncio.sleep(HEALTH_PERIOD_S)
                self._health = await self._ask_health(actor, self._config.health_timeout_s)
            raise RuntimeError(f"its forward has not moved for {self._health.stuck_for_s:.1f} s")
        except TimeoutError:
            raise RuntimeError("it did not answer in time") from None
        finally:
            self._link = None
            self._kill(actor)

    async def _ask_health(self, actor: Any, timeout_s: float) -> DraftHealth:
        # Not wait_for: until Python 3.12 it can swallow a cancellation.
        async with asyncio.timeout(timeout_s):
            health: DraftHealth = await actor.health.options(concurrency_group="health").remote()
        return health

    def _kill(self, actor: Any) -> None:
        """End the actor for good. A stopped process ignores Ray, but not SIGKILL."""
        ray.kill(actor, no_restart=True)
        health, self._health = self._health, None
        if health is not None and health.node_id == node_id():
            try:
                os.kill(health.pid, signal.SIGKILL)
            except ProcessLookupError:
                return
