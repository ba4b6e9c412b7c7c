"""One unbroken stream over as many replicas as it takes.

A draw depends on seed and position alone, so a text whose replica is lost goes on elsewhere as if
nothing had happened: another replica of the same fingerprint gets the ids that were told so far and
writes the next one. `Failover` decides, without I/O; `unbroken` runs the attempts. No Ray here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace

from s2d_ray.engine.messages import (
    HANDED_OVER,
    Delta,
    Event,
    Finished,
    GenerateRequest,
    Refused,
    Resume,
    Started,
    TokenPrompt,
)
from s2d_ray.engine.tally import Tally
from s2d_ray.errors import Unavailable

logger = logging.getLogger("ray.serve")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0
"""Between attempts; the first one comes at once."""

MAX_LOSSES = 3
"""Replicas that a request may cost while it gains no text: it may be what kills them."""

CODE = "replica_lost"

Attempt = Callable[[GenerateRequest], AsyncGenerator[Event, None]]
"""Runs a request on some replica. Raises ReplicaLost, or RequestError if there cannot be any."""


class ReplicaLost(Exception):
    """The replica of this attempt is gone, or will not take the text."""


class Failover:
    """What one stream has told so far, over all attempts, and how it goes on.

    Only the attempt that is running is listened to, so nothing that an older one says is told.
    """

    def __init__(self, request: GenerateRequest) -> None:
        self._request = request
        self._attempt = 0
        self._started: Started | None = None
        self._is_admitted = False
        self._num_losses = 0
        self._token_ids: list[int] = []
        self._num_chars = 0
        self._has_text = False
        self._tally = Tally()

    @property
    def has_moved(self) -> bool:
        """Whether the stream is on another replica than it began on."""
        return self._attempt > 0

    def take(self, event: Event) -> Event | None:
        """An event of the attempt that is running. -> what the client is told, if anything.

        Raises ReplicaLost if another replica must be tried.
        """
        match event:
            case Started():
                is_first, self._started = self._started is None, event
                self._is_admitted = True
                return event if is_first else None
            case Delta():
                self._has_text = True
                self._num_losses = 0
                self._num_chars += len(event.text)
                self._token_ids += event.token_ids
                self._tally.start(event.cached_tokens)
                self._tally.take(event.rounds)
            case Refused(code=code) if code == HANDED_OVER:
                self._is_admitted = False  # nothing was lost
                raise ReplicaLost(event.message)
            case Refused() if self._may_be_taken_elsewhere(event):
                raise ReplicaLost(event.message)
        return event

    def again(self) -> GenerateRequest:
        """The request for another replica. Raises Unavailable if no replica shall or could go on.

        Each attempt has an id of its own: an abort of the one before must not meet this one.
        """
        self._num_losses += self._is_admitted
        if self._num_losses >= MAX_LOSSES:
            raise Unavailable(f"{MAX_LOSSES} replicas were lost with this request", code=CODE)
        self._attempt += 1
        self._is_admitted = False
        request = replace(
            self._request,
            request_id=f"{self._request.request_id}~{self._attempt}",
            tag=replace(self._request.tag, attempt=self._attempt),
        )
        if not self._has_text:
            return request
        started, ids = self._started, tuple(self._token_ids)
        if started is None or not ids:
            raise Unavailable("the replica was lost, and its engine cannot resume", code=CODE)
        usage = self._tally.usage(started.prompt_tokens, len(ids))
        resume = Resume(started.fingerprint, ids, self._num_chars, usage)
        prompt = TokenPrompt(started.prompt_ids)
        return replace(request, prompt=prompt, resume=resume)

    def _may_be_taken_elsewhere(self, refused: Refused) -> bool:
        """Whether a refusal tells of a replica only: the stream has been taken before."""
        is_late = self._is_admitted or not self.has_moved
        return not is_late and (self._has_text or refused.status == Unavailable.status)


async def unbroken(
    request: GenerateRequest, attempt: Attempt, on_failover: Callable[[], None]
) -> AsyncGenerator[Event, None]:
    """The events of a request as one stream, whatever becomes of the replicas that write it.

    It waits for a replica that goes on as long as it is listened to: the longest time of a request
    ends that. on_failover: called whenever another replica has taken it over.
    Raises: RequestError; Unavailable with code "replica_lost" if it may not be tried again.
    """
    failover = Failover(request)
    pause_s = 0.0
    while True:
        try:
            async with aclosing(attempt(request)) as events:
                async for event in events:
                    told = failover.take(event)
                    if isinstance(event, Started) and failover.has_moved:
                        on_failover()
                        pause_s = 0.0
                    if told is not None:
                        yield told
                    if isinstance(event, Finished | Refused):
                        return
            raise ReplicaLost("the replica ended a reply without a last event")
        except ReplicaLost as error:
            logger.warning("request %s lost its replica: %s", request.request_id, error)
        except Unavailable:
            if not failover.has_moved:
                raise
        request = failover.again()
        await asyncio.sleep(pause_s)
        pause_s = min(max(FIRST_PAUSE_S, 2 * pause_s), LONGEST_PAUSE_S)
