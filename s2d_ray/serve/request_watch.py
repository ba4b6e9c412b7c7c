"""What a request comes to, from its arrival to its one end, whatever that end is. No Ray.

A watch is a ticket around the request's own: it sees the events of all its texts once they may run,
and its close is where every reply ends.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Protocol

from s2d_ray.engine.messages import (
    Delta,
    Event,
    Finished,
    GenerateRequest,
    Prompt,
    Started,
    Tag,
    Usage,
)
from s2d_ray.observe.spans import asked_for, child_of
from s2d_ray.policy.keys import Caller
from s2d_ray.serve.edge import CLIENT_GONE
from s2d_ray.serve.gate import Ticket
from s2d_ray.serve.tenant_ticket import error_status

NOBODY = "-"
"""The tenant of requests where nobody is asked for a key."""


@dataclass(frozen=True)
class RequestEnd:
    """One request that is over.

    status: of HTTP, also of an error within a stream; 499 if the client left. prompt_tokens,
    cached_tokens: each prompt once. queue_s: waited at the ledger, None if it did not let it run or
    there is none. first_token_s: from arrival, None without a token. later_tokens, later_token_s:
    tokens behind the first ones of texts, and the time between them. traceparent, parent: of its
    span, and what that is part of; empty if it is not traced.
    """

    request_id: str
    tenant: str
    target: str
    status: int
    why: str
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    drafted_tokens: int
    accepted_tokens: int
    queue_s: float | None
    first_token_s: float | None
    later_tokens: int
    later_token_s: float
    total_s: float
    traceparent: str = ""
    parent: str = ""


class Observer(Protocol):
    """Is told of requests, at once; must not block or raise. traces: whether it takes spans."""

    traces: bool

    def begun(self, target: str) -> None:
        """A request has its target."""

    def ended(self, end: RequestEnd) -> None:
        """It is over; told once for each that had begun."""


class Unobserved:
    """Nobody is told."""

    traces = False

    def begun(self, target: str) -> None:
        """A request has its target."""

    def ended(self, end: RequestEnd) -> None:
        """It is over."""


@dataclass
class _Text:
    """What one text has come to. num_first: tokens that came at once, first of all."""

    prompt: Prompt
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    num_first: int = 0
    first_s: float = 0.0
    last_s: float = 0.0
    usage: Usage | None = None

    def take(self, event: Event) -> None:
        if isinstance(event, Delta):
            self.last_s = time.monotonic()
            self.output_tokens += len(event.token_ids)
            self.cached_tokens += event.cached_tokens
            if not self.first_s:
                self.first_s = self.last_s
                self.num_first = max(1, len(event.token_ids))
        elif isinstance(event, Started):
            self.prompt_tokens = event.prompt_tokens
        elif isinstance(event, Finished):
            self.usage = event.usage
            self.output_tokens = event.usage.completion_tokens
            self.cached_tokens = event.usage.cached_tokens


class RequestWatch:
    """Of one request, from now on."""

    def __init__(
        self,
        observer: Observer,
        request_id: str,
        caller: Caller | None,
        header: str | None = None,
    ) -> None:
        """caller: whose it is, if anybody was asked for a key; then it must be let run.

        header: `traceparent` as it came.
        """
        self._observer = observer
        self._request_id = request_id
        self._tenant = NOBODY if caller is None else caller.name
        self._has_ledger = caller is not None
        self._parent = asked_for(header) if observer.traces else ""
        self._traceparent = child_of(self._parent) if self._parent else ""
        self._target = self._why = ""
        self._texts: list[_Text] = []
        self._arrived_s = time.monotonic()
        self._asked_s = 0.0
        self._runs_s: float | None = None
        self._is_over = False

    @property
    def tag(self) -> Tag:
        """What its texts carry along."""
        return Tag(self._request_id, self._tenant, traceparent=self._traceparent)

    def goes_to(self, target: str, why: str = "") -> None:
        """Its target is known, and so it is told of."""
        if not self._target:
            self._observer.begun(target)
            self._target = target
        self._why = why

    @contextmanager
    def until_answered(self) -> Iterator[None]:
        """What is raised inside is the end of the request."""
        try:
            yield
        except Exception as error:
            self.end(error_status(error))
            raise
        except BaseException:  # cancelled: nobody listens any more
            self.end(CLIENT_GONE)
            raise

    def over(self, ticket: Ticket) -> Ticket:
        """The same ticket, watched: once it is closed the request is over."""
        return _Watched(self, ticket)

    async def listen(
        self, request: GenerateRequest, events: AsyncGenerator[Event, None]
    ) -> AsyncGenerator[Event, None]:
        """The same events; begins when the request may run."""
        if self._runs_s is None:
            self._runs_s = time.monotonic()
        text = _Text(request.prompt)
        self._texts.append(text)
        async with aclosing(events):
            async for event in events:
                text.take(event)
                yield event

    def asks(self) -> None:
        """It asks to be let run."""
        self._asked_s = time.monotonic()

    def end_of(self, error: Exception | None, num_texts: int) -> None:
        """The reply is over. error: what it was given up for, if anything."""
        finished = sum(text.usage is not None for text in self._texts)
        if error is not None:
            self.end(error_status(error))
        else:
            self.end(200 if finished == num_texts else CLIENT_GONE)

    def end(self, status: int) -> None:
        """The request is over; only the first end counts, and only one of a known target."""
        if self._is_over or not self._target:
            return
        self._is_over = True
        usages = [text.usage for text in self._texts if text.usage is not None]
        prompts = {id(text.prompt): text for text in reversed(self._texts)}.values()
        begun = [text for text in self._texts if text.first_s]
        first_s = min((text.first_s for text in begun), default=None)
        waited = self._runs_s is not None and self._has_ledger
        self._observer.ended(
            RequestEnd(
                request_id=self._request_id,
                tenant=self._tenant,
                target=self._target,
                status=status,
                why=self._why,
                prompt_tokens=sum(text.prompt_tokens for text in prompts),
                cached_tokens=sum(text.cached_tokens for text in prompts),
                output_tokens=sum(text.output_tokens for text in self._texts),
                drafted_tokens=sum(usage.drafted_tokens for usage in usages),
                accepted_tokens=sum(usage.accepted_tokens for usage in usages),
                queue_s=(self._runs_s or 0.0) - self._asked_s if waited else None,
                first_token_s=None if first_s is None else first_s - self._arrived_s,
                later_tokens=sum(max(0, text.output_tokens - text.num_first) for text in begun),
                later_token_s=sum(text.last_s - text.first_s for text in begun),
                total_s=time.monotonic() - self._arrived_s,
                traceparent=self._traceparent,
                parent=self._parent,
            )
        )


class _Watched:
    """A ticket that is watched."""

    def __init__(self, watch: RequestWatch, ticket: Ticket) -> None:
        self._watch = watch
        self._ticket = ticket
        self._num_texts = 0
        watch.asks()

    def run(
        self, request: GenerateRequest, events: AsyncGenerator[Event, None]
    ) -> AsyncGenerator[Event, None]:
        """As the ticket has it."""
        self._num_texts += 1
        return self._ticket.run(request, self._watch.listen(request, events))

    def headers(self) -> dict[str, str]:
        """As the ticket has them."""
        return self._ticket.headers()

    async def close(self, error: Exception | None) -> None:
        """The request is over."""
        try:
            await self._ticket.close(error)
        finally:
            self._watch.end_of(error, self._num_texts)
