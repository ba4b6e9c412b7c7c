"""Running the requests of one reply, and sending it whole or as a stream."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from s2d_ray.engine.messages import Event, GenerateRequest, Started
from s2d_ray.errors import RequestError
from s2d_ray.serve.backend import Backend, Relay
from s2d_ray.serve.edge import CLIENT_GONE, EventStream, client_gone, internal_error, sse
from s2d_ray.serve.gate import Ticket
from s2d_ray.serve.openai.body import error_body
from s2d_ray.serve.openai.reply import Reply

SSE_DONE = b"data: [DONE]\n\n"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A checked request: what a target is asked, and how the reply is told.

    ignored: the fields that were sent and have no effect. max_s: the longest it may take.
    """

    target: str
    requests: Sequence[GenerateRequest]
    reply: Reply
    is_stream: bool
    ignored: Sequence[str]
    max_s: float

    def headers(self) -> dict[str, str]:
        """Headers of the reply."""
        seed = {"x-s2d-seed": str(self.requests[0].sampling.seed)}
        return seed | ({"x-s2d-ignored": ", ".join(self.ignored)} if self.ignored else {})


async def answer(backend: Backend, job: Job, request: Request, ticket: Ticket) -> Response:
    """Have all choices written at the same time. Raises RequestError if one is refused."""
    streams = [
        ticket.run(generate, backend.generate(job.target, generate)) for generate in job.requests
    ]
    async with AsyncExitStack() as stack:
        relay = Relay(streams, client_gone(request.receive), job.max_s)
        stack.push_async_callback(_end, relay, ticket)
        begun = await first_events(relay, len(streams))
        if begun is None:
            return Response(status_code=CLIENT_GONE)
        headers = job.headers() | ticket.headers()
        if job.is_stream:
            chunks = stream_reply(relay, begun, job.reply, request.state.request_id)
            return EventStream(chunks, headers, stack.pop_all())
        whole = await whole_reply(relay, begun, job.reply)
        if whole is None:
            return Response(status_code=CLIENT_GONE)
        return JSONResponse(whole, headers=headers)


async def _end(relay: Relay, ticket: Ticket) -> None:
    """Abort what still runs, then settle what it took."""
    try:
        await relay.close()
    finally:
        await ticket.close(relay.error)


async def first_events(relay: Relay, num_choices: int) -> list[tuple[int, Event]] | None:
    """The events until all choices have begun, or one of them goes on; None if the client is gone.

    Up to here a refusal is the status of the answer.
    """
    begun: list[tuple[int, Event]] = []
    while len(begun) < num_choices:
        item = await relay.next()
        if item is None:
            return None
        begun.append(item)
        if not isinstance(item[1], Started):
            break
    return begun


async def whole_reply(
    relay: Relay, begun: Sequence[tuple[int, Event]], reply: Reply
) -> dict[str, Any] | None:
    """The body of a reply, None if the client is gone."""
    async for index, event in _events(relay, begun, reply):
        reply.take(index, event)
    return reply.whole() if reply.is_complete else None


async def stream_reply(
    relay: Relay, begun: Sequence[tuple[int, Event]], reply: Reply, request_id: str
) -> AsyncIterator[bytes]:
    """The chunks of a reply as server-sent events; an error now can only be one more event."""
    for chunk in reply.first():
        yield sse(chunk)
    try:
        async for index, event in _events(relay, begun, reply):
            for chunk in reply.take(index, event):
                yield sse(chunk)
        if reply.is_complete:
            yield SSE_DONE
    except RequestError as error:
        yield sse(error_body(error.message, error.type, error.param, error.code))
    except Exception:
        log.exception("request %s failed in its stream", request_id)
        yield sse(internal_error(request_id))


async def _events(
    relay: Relay, begun: Sequence[tuple[int, Event]], reply: Reply
) -> AsyncIterator[tuple[int, Event]]:
    """All events until the reply is complete or the client is gone."""
    for item in begun:
        yield item
    while not reply.is_complete:
        later = await relay.next()
        if later is None:
            return
        yield later
