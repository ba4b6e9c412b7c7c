"""The HTTP edge: OpenAI's API over a `Backend`.

Knows HTTP and nothing of models, actors or where text comes from. Every answer that is not a
reply, from 404 to 500, is an error in OpenAI's form.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from s2d_ray.config import HttpConfig
from s2d_ray.core.cascade import Plan
from s2d_ray.engine.messages import Delta, Finished
from s2d_ray.errors import BodyTooLarge, RequestError, Unavailable, UnknownModel
from s2d_ray.serve.backend import Backend, Health, Relay, TargetInfo
from s2d_ray.serve.openai_schema import Reply, error_body, parse_request

HEALTH_TIMEOUT_S = 2.0
"""A backend that does not tell its state in this time counts as not ready."""

REQUEST_ID = "x-request-id"
_SAFE_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_SSE_DONE = b"data: [DONE]\n\n"
_CLIENT_GONE = 499
_RETRY_LATER = (429, 503)

log = logging.getLogger(__name__)


def build_app(
    backend: Backend, http: HttpConfig, plan: Plan, *, answers_request_id: bool = True
) -> FastAPI:
    """The API over `backend`; `plan` is that of requests and targets that name none.

    answers_request_id: False behind a proxy that adds `x-request-id` to every answer by itself.
    """
    app = FastAPI(openapi_url=None, redirect_slashes=False)
    app.add_middleware(RequestScope, answers_request_id=answers_request_id)
    app.add_exception_handler(RequestError, _on_request_error)
    app.add_exception_handler(HTTPException, _on_http_error)

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        return await _chat_completion(backend, http, plan, request)

    @app.get("/v1/models")
    async def models() -> Response:
        data = [_model_body(info, plan) for info in backend.targets().values()]
        return JSONResponse({"object": "list", "data": data})

    @app.get("/v1/models/{name}")
    async def model(name: str) -> Response:
        return JSONResponse(_model_body(_target(backend, name), plan))

    @app.get("/health")
    async def health() -> Response:
        state = await _health(backend)
        return JSONResponse({"status": _status(state), **asdict(state)})

    @app.get("/readyz")
    async def readyz() -> Response:
        state = await _health(backend)
        if state.ready:
            return JSONResponse({"status": _status(state)})
        error = error_body("No target answers yet", Unavailable.type, None, "starting")
        return JSONResponse({"status": _status(state), **error}, 503, {"retry-after": "1"})

    return app


async def _chat_completion(
    backend: Backend, http: HttpConfig, plan: Plan, request: Request
) -> Response:
    body = parse_request(await read_body(request, http.max_body_bytes))
    target = _target(backend, body.model)
    generate = body.to_generate(f"chatcmpl-{uuid.uuid4().hex}", target.plan or plan)
    include_usage = bool(body.stream_options and body.stream_options.include_usage)
    reply = Reply(generate, target.name, int(time.time()), include_usage=include_usage)
    headers = {"x-s2d-seed": str(generate.sampling.seed)}
    async with AsyncExitStack() as stack:
        relay = Relay(backend.generate(target.name, generate), _client_gone(request.receive))
        stack.push_async_callback(relay.close)
        if await relay.next() is None:
            return Response(status_code=_CLIENT_GONE)
        if body.stream:
            chunks = stream_reply(relay, reply, request.state.request_id)
            return EventStream(chunks, headers, stack.pop_all())
        whole = await whole_reply(relay, reply)
        if whole is None:
            return Response(status_code=_CLIENT_GONE)
        return JSONResponse(whole, headers=headers)


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


async def _client_gone(receive: Receive) -> None:
    # A connection that can no longer be asked is as good as closed.
    with suppress(Exception):
        while (await receive())["type"] != "http.disconnect":
            pass


async def whole_reply(relay: Relay, reply: Reply) -> dict[str, Any] | None:
    """The body of a chat.completion, None if the client is gone."""
    deltas: list[Delta] = []
    while (event := await relay.next()) is not None:
        if isinstance(event, Finished):
            return reply.whole(deltas, event)
        if isinstance(event, Delta):
            deltas.append(event)
    return None


async def stream_reply(relay: Relay, reply: Reply, request_id: str) -> AsyncIterator[bytes]:
    """The chunks of a reply as server-sent events; an error now can only be one more event."""
    yield _sse(reply.first())
    try:
        while (event := await relay.next()) is not None:
            if isinstance(event, Finished):
                for chunk in reply.last(event):
                    yield _sse(chunk)
                yield _SSE_DONE
                return
            if isinstance(event, Delta) and (event.text or event.tokens):
                yield _sse(reply.delta(event))
    except RequestError as error:
        yield _sse(error_body(error.message, error.type, error.param, error.code))
    except Exception:
        log.exception("request %s failed in its stream", request_id)
        yield _sse(_internal_error(request_id))


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
    """Gives each request an id, and turns what nobody caught into a 500 without internals."""

    def __init__(self, app: ASGIApp, answers_request_id: bool) -> None:
        self._app = app
        self._answers_request_id = answers_request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        request_id = _request_id(Headers(scope=scope))
        scope.setdefault("state", {})["request_id"] = request_id
        has_begun = False

        async def send_with_id(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                if self._answers_request_id:
                    MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            log.debug("request %s: the client is gone", request_id)
        except Exception:
            log.exception("request %s failed", request_id)
            if has_begun:
                raise
            response = JSONResponse(_internal_error(request_id), 500)
            await response(scope, receive, send_with_id)


def _request_id(headers: Headers) -> str:
    given = headers.get(REQUEST_ID, "")
    return given if _SAFE_REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _internal_error(request_id: str) -> dict[str, Any]:
    message = f"Internal error; the server's log names it by request id {request_id}"
    return error_body(message, "server_error", None, "internal_error")


async def _on_request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    body = error_body(error.message, error.type, error.param, error.code)
    headers = {"retry-after": "1"} if error.status in _RETRY_LATER else None
    return JSONResponse(body, error.status, headers)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{error.detail}: {request.method} {request.url.path}"
    body = error_body(message, RequestError.type, None, error.detail.lower().replace(" ", "_"))
    return JSONResponse(body, error.status_code, error.headers)


def _target(backend: Backend, name: str) -> TargetInfo:
    targets = backend.targets()
    if name not in targets:
        message = f"No model named {name!r}; this server has: {', '.join(targets) or 'none'}"
        raise UnknownModel(message, "model", "model_not_found")
    return targets[name]


def _model_body(info: TargetInfo, plan: Plan) -> dict[str, Any]:
    shown = asdict(info.plan or plan)
    return {
        "id": info.name,
        "object": "model",
        "created": info.created,
        "owned_by": "s2d-ray",
        "s2d": {"model": info.model, "max_context": info.max_context, "plan": shown},
    }


async def _health(backend: Backend) -> Health:
    try:
        async with asyncio.timeout(HEALTH_TIMEOUT_S):
            return await backend.health()
    except Exception as error:
        log.warning("the backend does not tell its state: %r", error)
        return Health(ready=False, degraded=True)


def _status(state: Health) -> str:
    if not state.ready:
        return "starting"
    return "degraded" if state.degraded else "ok"


def _sse(body: Mapping[str, Any]) -> bytes:
    # ASCII only: many clients split lines at U+2028 and its kind, which JSON leaves bare.
    return b"data: %s\n\n" % json.dumps(body, separators=(",", ":")).encode("ascii")
