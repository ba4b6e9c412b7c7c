"""Who may pass the HTTP edge, and when: the seam, its middleware, and leave for everybody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from s2d_ray.engine.messages import Event, GenerateRequest
from s2d_ray.errors import RequestError
from s2d_ray.policy.keys import Caller
from s2d_ray.serve.backend import TargetInfo, ended_by
from s2d_ray.serve.edge import on_request_error, unless_gone
from s2d_ray.serve.pages import PATHS

OPEN_PATHS = frozenset({"/health", "/readyz"})
"""Routes for probes, which have no key to send."""
_WITHOUT_KEY = OPEN_PATHS | PATHS


@dataclass(frozen=True)
class Visit:
    """One generating request at the gate. caller: None where nobody is asked for a key."""

    caller: Caller | None
    target: TargetInfo
    requests: Sequence[GenerateRequest]
    request_id: str
    num_bytes: int


@dataclass(frozen=True)
class TokensCall:
    """One call of a route of tokens at the gate."""

    caller: Caller
    path: str
    request_id: str
    num_bytes: int


class Ticket(Protocol):
    """One visit's leave to run."""

    def run(
        self, request: GenerateRequest, events: AsyncGenerator[Event, None]
    ) -> AsyncGenerator[Event, None]:
        """The same events, once the visit may run. Raises: RequestError if it may not."""

    def headers(self) -> dict[str, str]:
        """Headers of the answer, once it has begun."""

    async def close(self, error: Exception | None) -> None:
        """The visit is over. error: what its reply was given up for, if anything."""


class Gate(Protocol):
    """Decides about requests of tenants."""

    async def caller_of(self, authorization: str | None) -> Caller:
        """Whose key a request carries. Raises: Unauthorized, or Overloaded if it cannot tell."""

    def ticket(self, visit: Visit) -> Ticket:
        """A ticket for a request that is to run."""

    def turn(self, call: TokensCall) -> AbstractAsyncContextManager[Mapping[str, str]]:
        """Entered when it is the call's turn, with headers of its answer. Raises: RequestError."""

    async def usage(self, caller: Caller) -> dict[str, Any]:
        """Usage that a caller may see. Raises: Overloaded."""

    async def revoke(self, key_id: str, caller: Caller) -> int | None:
        """Revoke a key everywhere; -> routers that confirmed, None for an unknown key."""


class OpenTicket:
    """Leave for everybody, at once."""

    def run(
        self, request: GenerateRequest, events: AsyncGenerator[Event, None]
    ) -> AsyncGenerator[Event, None]:
        """The same events."""
        return events

    def headers(self) -> dict[str, str]:
        """None."""
        return {}

    async def close(self, error: Exception | None) -> None:
        """Nothing is kept."""


class Doorkeeper:
    """Lets in whom the gate knows."""

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http" or scope["path"] in _WITHOUT_KEY:
            return await self._app(scope, receive, send)
        answer = self._app
        try:
            authorization = Headers(scope=scope).get("authorization")
            scope["state"]["caller"] = await self._gate.caller_of(authorization)
        except RequestError as error:
            answer = await on_request_error(Request(scope), error)
        return await answer(scope, receive, send)


def caller_of(request: Request) -> Caller | None:
    """Whose key the request carries, None where nobody is asked for one."""
    caller: Caller | None = getattr(request.state, "caller", None)
    return caller


async def in_turn(
    gate: Gate | None,
    request: Request,
    num_bytes: int,
    max_s: float,
    work: Callable[[], Awaitable[Any]],
) -> Response:
    """Answer a call of a route of tokens with what `work` gives, once it is its caller's turn.

    max_s: longest time of both together. Raises: RequestError.
    """
    caller = caller_of(request)
    turn: AbstractAsyncContextManager[Mapping[str, str]] = nullcontext({})
    if gate is not None and caller is not None:
        turn = gate.turn(TokensCall(caller, request.url.path, request.state.request_id, num_bytes))
    since_s = asyncio.get_running_loop().time()

    async def answer() -> Response:
        async with AsyncExitStack() as stack:
            async with ended_by(max_s, since_s):
                headers = await stack.enter_async_context(turn)
            # Inside the turn, so that the turn learns what ended it.
            async with ended_by(max_s, since_s):
                return JSONResponse(await work(), headers=dict(headers))

    return await unless_gone(request, answer())
