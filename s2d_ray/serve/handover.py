"""A replica that is to end hands its streams over, if another one can go on with them. No Ray here.

Serve does not tell a replica that it is to end, but it no longer asks after its health. That is a
reason to look: if Serve says so, and a replica of the same fingerprint runs, streams are let go one
by one, each behind an event; the router has that other replica go on with them.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from s2d_ray.engine.messages import HANDED_OVER, Event, Finished, Refused

AFTER_S = 30.0
"""Without a question after its health: three times Serve's period."""

LOOK_EVERY_S = 5.0


class Handover:
    """Whether a replica lets its streams go."""

    def __init__(
        self,
        fingerprint: str,
        is_ending: Callable[[], Awaitable[bool]],
        others_fingerprint: Callable[[], Awaitable[str]],
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """fingerprint: this replica's. others_fingerprint: that of one that Serve sends to."""
        self.is_due = False
        self._fingerprint = fingerprint
        self._is_ending = is_ending
        self._others_fingerprint = others_fingerprint
        self._now_s = now_s
        self._asked_s = now_s()

    def asked(self) -> None:
        """Serve has asked after the replica's health, so it means to keep it."""
        self._asked_s = self._now_s()
        self.is_due = False

    async def look(self) -> None:
        """Find out whether it is time. To be called now and then."""
        if self.is_due or self._now_s() - self._asked_s < AFTER_S:
            return
        if await self._is_ending():
            self.is_due = await self._others_fingerprint() == self._fingerprint

    async def until_due(
        self, bundles: AsyncGenerator[tuple[Event, ...], None]
    ) -> AsyncGenerator[tuple[Event, ...], None]:
        """The events of one stream; once it is time, a refusal instead of the rest."""
        async with aclosing(bundles):
            async for bundle in bundles:
                yield bundle
                if self.is_due and not isinstance(bundle[-1], Finished | Refused):
                    yield (Refused(503, "this replica is to end", code=HANDED_OVER),)
                    return
