"""The seam between the HTTP edge and whatever generates text.

The edge knows targets by name and events by type; where they run is the backend's affair. Plain
data, one protocol, and the relay through which the edge listens: no HTTP, no Ray.
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Collection,
    Coroutine,
    Mapping,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from s2d_ray.core.cascade import Plan
from s2d_ray.engine.messages import (
    Event,
    Finished,
    GenerateRequest,
    Prompt,
    Refused,
    Tokens,
)
from s2d_ray.errors import RequestError, Unavailable
from s2d_ray.policy.routing import Auto, Rules, TargetState


@dataclass(frozen=True)
class TargetInfo:
    """What the API says about one target.

    created: Unix seconds. model: its source, as the config names it. max_context: tokens.
    default_max_tokens: output cap of a request that sets none; None: what the context leaves.
    """

    name: str
    created: int
    model: str
    max_context: int
    default_max_tokens: int | None = None


@dataclass(frozen=True)
class Routing:
    """What requests are routed by, as configured now.

    plan: of requests that the plan table has none for. rules: splits and the plan table.
    states: of every target, as if it lived and nothing were outstanding.
    has_auto: whether a request may leave the choice of its target to the service.
    """

    plan: Plan
    states: Mapping[str, TargetState]
    rules: Rules[Plan] = field(default_factory=Rules)
    has_auto: bool = False

    def names(self) -> dict[str, list[str]]:
        """Names that stand for a choice among targets -> those."""
        autos = {kind.value: list(self.states) for kind in Auto} if self.has_auto else {}
        return autos | {name: list(weights) for name, weights in self.rules.splits.items()}


@dataclass(frozen=True)
class TargetHealth:
    """State of one target. `bitwise_exact` is None until its replica has checked its host.

    draft_circuit: state of its circuit breaker towards the draft ("closed": asking it). control:
    of one replica, its plans in force and the measured benefit of speculation; see docs/control.md.
    """

    ready: bool
    bitwise_exact: bool | None = None
    draft_circuit: str = "closed"
    counters: Mapping[str, float] = field(default_factory=dict)
    control: Mapping[str, Any] = field(default_factory=dict)


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
        """The targets there are now, by name, in the config's order. Never blocks."""

    def routing(self) -> Routing:
        """What requests are routed by now; it knows the same targets. Never blocks."""

    async def alive(self) -> Collection[str]:
        """Targets that answered lately. Does not wait for those that do not."""

    def generate(self, target: str, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        """Serve one request as an async generator of events.

        The first event is `Started` (then deltas, then `Finished`) or `Refused`; after its last
        event the generator returns at once. Closing it, or cancelling the task that runs it,
        aborts the request; what it awaits while closing is not cancelled again.
        Raises: RequestError, before the first event or later.
        """

    async def tokenize(self, target: str, prompt: Prompt) -> Tokens:
        """The ids of a prompt. Raises: RequestError."""

    async def detokenize(self, target: str, token_ids: Sequence[int]) -> str:
        """The text of some ids. Raises: RequestError."""

    async def health(self) -> Health:
        """A recent snapshot of the service's state."""

    async def metrics(self) -> str:
        """The counters of the whole service, in Prometheus' text form."""


class Relay:
    """Runs the backend's generators of one reply, each in a task of its own, until all have ended.

    Tasks of their own, because a web framework may cancel a response over and over until it
    returns: a generator run inside it could not await anything while it aborts. When nobody
    listens any more, or the relay is closed, what still runs is aborted.
    """

    def __init__(
        self,
        streams: Sequence[AsyncGenerator[Event, None]],
        gone: Coroutine[Any, Any, None],
        max_s: float,
    ) -> None:
        """`gone` returns when nobody listens any more. max_s: after that the reply is given up."""
        self.error: Exception | None = None
        """What `next` has raised: why the reply was given up."""
        self._queue: asyncio.Queue[tuple[int, Event | Exception | None]] = asyncio.Queue()
        self._ending: set[int] = set()
        self._pumps = [
            asyncio.create_task(self._run(index, events)) for index, events in enumerate(streams)
        ]
        for index, pump in enumerate(self._pumps):
            pump.add_done_callback(partial(self._tell_end, index))
        self._watch = asyncio.create_task(gone)
        self._watch.add_done_callback(lambda _: self._abort())
        self._deadline = asyncio.get_running_loop().call_later(
            max_s, self._queue.put_nowait, (0, too_long(max_s))
        )

    async def next(self) -> tuple[int, Event] | None:
        """The next event and the number of its generator, None if nobody listens any more.

        Raises: RequestError if a request is refused, its backend gives it up, or it took too long.
        """
        try:
            return await self._next()
        except Exception as error:
            self.error = error
            raise

    async def close(self) -> None:
        """Abort what still runs, and wait until the backend has let go of it."""
        self._deadline.cancel()
        self._abort()
        self._watch.cancel()
        await asyncio.wait((*self._pumps, self._watch))

    async def _next(self) -> tuple[int, Event] | None:
        while True:
            index, item = await self._queue.get()
            if isinstance(item, Exception):
                raise item
            if isinstance(item, Refused):
                raise refusal(item)
            if item is not None:
                return index, item
            if self._watch.done():
                return None
            if index not in self._ending:
                raise RuntimeError("the backend ended a reply without a last event")

    def _abort(self) -> None:
        # Neither twice nor after the end: that would cut off what the backend awaits to clean up.
        for index, pump in enumerate(self._pumps):
            if index not in self._ending and not pump.cancelling():
                pump.cancel()

    def _tell_end(self, index: int, _pump: asyncio.Task[None]) -> None:
        self._queue.put_nowait((index, None))

    async def _run(self, index: int, events: AsyncGenerator[Event, None]) -> None:
        try:
            async with aclosing(events):
                async for event in events:
                    if isinstance(event, Finished | Refused):
                        self._ending.add(index)
                    self._queue.put_nowait((index, event))
        except Exception as error:
            self._queue.put_nowait((index, error))


def too_long(max_s: float) -> RequestError:
    """The error of a request that took longer than any may."""
    return Unavailable(
        f"The request took longer than {max_s:g} s, the longest time here", code="deadline"
    )


@asynccontextmanager
async def ended_by(max_s: float, since_s: float) -> AsyncIterator[None]:
    """Raise `too_long` if what is inside goes on `max_s` after that time of the loop's clock."""
    try:
        async with asyncio.timeout_at(since_s + max_s):
            yield
    except TimeoutError:
        raise too_long(max_s) from None


def refusal(event: Refused) -> RequestError:
    """The error that a `Refused` event stands for."""
    error = RequestError(event.message, event.param, event.code)
    error.status = event.status
    if event.status >= 500:
        error.type = Unavailable.type if event.status == Unavailable.status else "server_error"
    return error
