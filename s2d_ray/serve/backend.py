"""The seam between the HTTP edge and whatever generates text.

The edge knows targets by name and events by type; where they run is the backend's affair. Plain
data, one protocol, and the relay through which the edge listens: no HTTP, no Ray.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

from s2d_ray.core.cascade import Plan
from s2d_ray.engine.messages import Event, Finished, GenerateRequest, Refused
from s2d_ray.errors import RequestError, Unavailable


@dataclass(frozen=True)
class TargetInfo:
    """What the API says about one target.

    created: Unix seconds. model: its source, as the config names it. max_context: tokens.
    plan: the target's own default plan, None for the config's.
    """

    name: str
    created: int
    model: str
    max_context: int
    plan: Plan | None = None


@dataclass(frozen=True)
class TargetHealth:
    """State of one target. `bitwise_exact` is None until its replica has checked its host.

    draft_circuit: state of its circuit breaker towards the draft ("closed": asking it).
    """

    ready: bool
    bitwise_exact: bool | None = None
    draft_circuit: str = "closed"
    counters: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Health:
    """State of the whole service: `ready` once a target answers, `degraded` without its draft."""

    ready: bool
    degraded: bool
    targets: Mapping[str, TargetHealth] = field(default_factory=dict)
    draft: Mapping[str, Any] = field(default_factory=dict)


class Backend(Protocol):
    """Generates text for the HTTP edge."""

    def targets(self) -> Mapping[str, TargetInfo]:
        """The deployed targets by name, in the config's order. Never blocks."""

    def generate(self, target: str, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        """Serve one request as an async generator of events.

        The first event is `Started` (then deltas, then `Finished`) or `Refused`; after its last
        event the generator returns at once. Closing it, or cancelling the task that runs it,
        aborts the request; what it awaits while closing is not cancelled again.
        Raises: RequestError, before the first event or later.
        """

    async def health(self) -> Health:
        """A recent snapshot of the service's state."""


class Relay:
    """Runs a backend's generator in a task of its own, until it ends or nobody listens.

    A task of its own, because a web framework may cancel a response over and over until it
    returns: a generator run inside it could not await anything while it aborts.
    """

    def __init__(
        self, events: AsyncGenerator[Event, None], gone: Coroutine[Any, Any, None]
    ) -> None:
        """`gone` returns when nobody listens any more."""
        self._queue: asyncio.Queue[Event | Exception | None] = asyncio.Queue()
        self._is_ending = False
        self._pump = asyncio.create_task(self._run(events))
        self._pump.add_done_callback(lambda _: self._queue.put_nowait(None))
        self._watch = asyncio.create_task(gone)
        self._watch.add_done_callback(lambda _: self._abort())

    async def next(self) -> Event | None:
        """The next event, None if nobody listens any more.

        Raises: RequestError if the request is refused or its backend gives it up.
        """
        item = await self._queue.get()
        if isinstance(item, Exception):
            raise item
        if isinstance(item, Refused):
            raise refusal(item)
        if item is None and not self._watch.done():
            raise RuntimeError("the backend ended a reply without a last event")
        return item

    async def close(self) -> None:
        """Abort what still runs, and wait until the backend has let go of it."""
        self._abort()
        self._watch.cancel()
        await asyncio.wait((self._pump, self._watch))

    def _abort(self) -> None:
        # Neither twice nor after the end: that would cut off what the backend awaits to clean up.
        if not self._is_ending and not self._pump.cancelling():
            self._pump.cancel()

    async def _run(self, events: AsyncGenerator[Event, None]) -> None:
        try:
            async with aclosing(events):
                async for event in events:
                    self._is_ending = isinstance(event, Finished | Refused)
                    self._queue.put_nowait(event)
        except Exception as error:
            self._queue.put_nowait(error)


def refusal(event: Refused) -> RequestError:
    """The error that a `Refused` event stands for."""
    error = RequestError(event.message, event.param, event.code)
    error.status = event.status
    if event.status >= 500:
        error.type = Unavailable.type if event.status == Unavailable.status else "server_error"
    return error
