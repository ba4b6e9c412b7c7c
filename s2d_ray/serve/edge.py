"""What every exchange of the HTTP edge has: a request id, a bounded body, errors in one form."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import uuid
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AsyncExitStack, suppress
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from s2d_ray.errors import BodyTooLarge, RequestError
from s2d_ray.serve.openai.body import error_body

REQUEST_ID = "x-request-id"
_SAFE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_RETRY_LATER = (429, 503)
CLIENT_GONE = 499
REFUSED_HEADERS = ("x-request-timeout-seconds", "x-request-disconnect-disabled")
"""Serve's proxy obeys these from any client; deadlines are ours."""

log = logging.getLogger(__name__)


async def read_body(request: Request, limit: int) -> bytes:
    """The request body, at most `limit` bytes of it held. Raises BodyTooLarge beyond."""
    error = BodyTooLarge(f"The body is larger than {limit} bytes", code="body_too_large")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise error
    body = bytearray()
    async for part in request.stream():
        if len(body) + len(part) > limit:
            raise error
        body += part
    return bytes(body)


async def client_gone(receive: Receive) -> None:
    """Return when the client of a request has gone."""
    # A connection that can no longer be asked is as good as closed.
    with suppress(Exception):
        while (await receive())["type"] != "http.disconnect":
            pass


async def unless_gone(request: Request, answer: Coroutine[Any, Any, Response]) -> Response:
    """The answer, whose making is cancelled once its client has gone."""
    making = asyncio.create_task(answer)
    gone = asyncio.create_task(client_gone(request.receive))
    try:
        await asyncio.wait((making, gone), return_when=asyncio.FIRST_COMPLETED)
        return making.result() if making.done() else Response(status_code=CLIENT_GONE)
    finally:
        making.cancel()
        gone.cancel()
        await asyncio.wait((making, gone))


class EventStream(StreamingResponse):
    """A stream of server-sent events that closes `stack` even if it never began."""

    media_type = "text/event-stream"

    def __init__(
        self, chunks: AsyncIterator[bytes], headers: dict[str, str], stack: AsyncExitStack
    ) -> None:
        unbuffered = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(chunks, headers=unbuffered | headers)
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._stack:
            await super().__call__(scope, receive, send)


class RequestScope:
    """Gives each request an id, refuses headers that would set Serve's own deadlines, and turns
    what nobody caught into a 500 without internals.
    """

    def __init__(self, app: ASGIApp, answers_request_id: bool) -> None:
        self._app = app
        self._answers_request_id = answers_request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        request_id = _request_id(headers)
        scope.setdefault("state", {})["request_id"] = request_id
        has_begun = False

        async def send_with_id(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                if self._answers_request_id:
                    MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        app = self._app
        for name in REFUSED_HEADERS:
            if name in headers:
                error = RequestError(f"The header {name} is not supported", name)
                app = await on_request_error(Request(scope), error)
        try:
            await app(scope, receive, send_with_id)
        except ClientDisconnect:
            log.debug("request %s: the client is gone", request_id)
        except Exception:
            log.exception("request %s failed", request_id)
            if has_begun:
                raise
            response = JSONResponse(internal_error(request_id), 500)
            await response(scope, receive, send_with_id)


def _request_id(headers: Headers) -> str:
    given = headers.get(REQUEST_ID, "")
    return given if _SAFE_REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def internal_error(request_id: str) -> dict[str, Any]:
    """The body of a 500, without internals."""
    message = f"Internal error; the server's log names it by request id {request_id}"
    return error_body(message, "server_error", None, "internal_error")


async def on_request_error(request: Request, error: Exception) -> Response:
    """Answer a `RequestError`."""
    assert isinstance(error, RequestError)
    body = error_body(error.message, error.type, error.param, error.code)
    headers = dict(error.headers)
    if error.status in _RETRY_LATER:
        headers.setdefault("retry-after", "1")
        if error.code is not None:
            headers["x-s2d-reason"] = error.code
    return JSONResponse(body, error.status, headers)


async def on_http_error(request: Request, error: Exception) -> Response:
    """Answer an unknown path or method."""
    assert isinstance(error, HTTPException)
    message = f"{error.detail}: {request.method} {request.url.path}"
    body = error_body(message, RequestError.type, None, error.detail.lower().replace(" ", "_"))
    return JSONResponse(body, error.status_code, error.headers)


def sse(body: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    # ASCII only: many clients split lines at U+2028 and its kind, which JSON leaves bare.
    return b"data: %s\n\n" % json.dumps(body, separators=(",", ":")).encode("ascii")
