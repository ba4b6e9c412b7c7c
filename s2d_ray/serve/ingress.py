"""The HTTP edge: OpenAI's API over a `Backend`.

Knows HTTP and nothing of models, actors or where text comes from. Every answer that is not a
reply, from 404 to 500, is an error in OpenAI's form.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Generic, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException

from s2d_ray import __version__
from s2d_ray.config import HttpConfig
from s2d_ray.engine.messages import GenerateRequest
from s2d_ray.errors import RequestError, Unavailable, UnknownKey
from s2d_ray.observe.spans import TRACEPARENT
from s2d_ray.policy.keys import Caller
from s2d_ray.serve.backend import Backend, Health
from s2d_ray.serve.catalogue import Catalogue
from s2d_ray.serve.dispatch import Dispatcher
from s2d_ray.serve.edge import RequestScope, on_http_error, on_request_error, read_body
from s2d_ray.serve.gate import Doorkeeper, Gate, OpenTicket, Ticket, Visit, caller_of, in_turn
from s2d_ray.serve.generation import Job, answer
from s2d_ray.serve.openai.body import error_body, parse, parse_request
from s2d_ray.serve.openai.chat import ChatCompletionRequest
from s2d_ray.serve.openai.chat_reply import chat_reply
from s2d_ray.serve.openai.completions import CompletionRequest, completion_reply
from s2d_ray.serve.openai.document import document
from s2d_ray.serve.openai.fields import Endpoint
from s2d_ray.serve.openai.reply import Head, Reply
from s2d_ray.serve.openai.tokens import DetokenizeRequest, TokenizeRequest, tokens_body
from s2d_ray.serve.pages import add_pages
from s2d_ray.serve.request_watch import Observer, RequestWatch, Unobserved

HEALTH_TIMEOUT_S = 2.0
"""A backend that does not tell its state in this time counts as not ready."""

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"

log = logging.getLogger("ray.serve")


AnyTexts = TypeVar("AnyTexts", ChatCompletionRequest, CompletionRequest)


@dataclass(frozen=True)
class Form(Generic[AnyTexts]):
    """What tells the routes apart that write texts. prefix: of the ids of replies."""

    endpoint: Endpoint
    prefix: str
    body: type[AnyTexts]
    reply: Callable[[AnyTexts, Head, Sequence[GenerateRequest]], Reply]


CHAT = Form(Endpoint.CHAT, "chatcmpl", ChatCompletionRequest, chat_reply)
COMPLETIONS = Form(Endpoint.COMPLETIONS, "cmpl", CompletionRequest, completion_reply)


def build_app(
    backend: Backend,
    http: HttpConfig,
    gate: Gate | None = None,
    *,
    observer: Observer | None = None,
    answers_request_id: bool = True,
) -> FastAPI:
    """The API over `backend`.

    gate: asks for keys and admits requests; None: whoever asks is served.
    observer: is told of each request that is to write texts; None: nobody is.
    answers_request_id: False behind a proxy that adds `x-request-id` to every answer by itself.
    """
    # FastAPI would publish routes without bodies, and a page that needs a foreign host.
    app = FastAPI(openapi_url=None, redirect_slashes=False)
    if gate is not None:
        app.add_middleware(Doorkeeper, gate=gate)
    app.add_middleware(RequestScope, answers_request_id=answers_request_id)
    app.add_exception_handler(RequestError, on_request_error)
    app.add_exception_handler(HTTPException, on_http_error)
    catalogue = Catalogue(backend)
    _add_texts(app, backend, http, catalogue, gate, observer or Unobserved())
    _add_tokens(app, backend, http, catalogue, gate)
    _add_models(app, catalogue)
    _add_state(app, backend, with_tenants=gate is not None)
    if gate is not None:
        _add_tenancy(app, gate)
    add_pages(app)
    return app


def _add_texts(
    app: FastAPI,
    backend: Backend,
    http: HttpConfig,
    catalogue: Catalogue,
    gate: Gate | None,
    observer: Observer,
) -> None:
    dispatcher = Dispatcher(backend)

    async def watched(request: Request, form: Form[AnyTexts]) -> Response:
        header, caller = request.headers.get(TRACEPARENT), caller_of(request)
        watch = RequestWatch(observer, request.state.request_id, caller, header)
        with watch.until_answered():
            return await write(request, form, watch)

    async def write(request: Request, form: Form[AnyTexts], watch: RequestWatch) -> Response:
        raw = await read_body(request, http.max_body_bytes)
        body, ignored = parse_request(form.body, form.endpoint, raw)
        caller = caller_of(request)
        catalogue.check(body.model, caller)
        if body.model in backend.targets():
            watch.goes_to(body.model)
        reply_id = f"{form.prefix}-{uuid.uuid4().hex}"
        requests = body.requests(reply_id, backend.routing().plan)
        options = body.speculation
        sent_to = await dispatcher.dispatch(body.model, requests, options.task, caller)
        watch.goes_to(sent_to.target, sent_to.reason)
        plan = options.plan(sent_to.plan)
        requests = tuple(
            replace(text, plan=plan, task=sent_to.task, tag=watch.tag) for text in requests
        )
        target = backend.targets()[sent_to.target]
        reply = form.reply(body, Head(reply_id, int(time.time()), target.name), requests)
        job = Job(target.name, requests, reply, bool(body.stream), ignored, http.max_request_s)
        if gate is None or caller is None:
            ticket: Ticket = OpenTicket()
        else:
            caller.check_mode(requests[0].mode)
            visit = Visit(caller, target, requests, request.state.request_id, len(raw))
            ticket = gate.ticket(visit)
        ticket = watch.over(dispatcher.hold(sent_to, ticket))
        return await answer(backend, job, request, ticket)

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        return await watched(request, CHAT)

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await watched(request, COMPLETIONS)


def _add_tokens(
    app: FastAPI, backend: Backend, http: HttpConfig, catalogue: Catalogue, gate: Gate | None
) -> None:
    @app.post("/tokenize")
    async def tokenize(request: Request) -> Response:
        raw = await read_body(request, http.max_body_bytes)
        body = parse(TokenizeRequest, raw)
        catalogue.check_target(body.model, caller_of(request))
        prompt = body.to_prompt()

        async def work() -> dict[str, Any]:
            tokens = await backend.tokenize(body.model, prompt)
            return tokens_body(tokens, with_texts=bool(body.return_token_strs))

        return await in_turn(gate, request, len(raw), http.max_request_s, work)

    @app.post("/detokenize")
    async def detokenize(request: Request) -> Response:
        raw = await read_body(request, http.max_body_bytes)
        body = parse(DetokenizeRequest, raw)
        catalogue.check_target(body.model, caller_of(request))

        async def work() -> dict[str, Any]:
            return {"prompt": await backend.detokenize(body.model, body.tokens)}

        return await in_turn(gate, request, len(raw), http.max_request_s, work)


def _add_models(app: FastAPI, catalogue: Catalogue) -> None:
    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": catalogue.all(caller_of(request))})

    @app.get("/v1/models/{name}")
    async def model(name: str, request: Request) -> Response:
        return JSONResponse(catalogue.one(name, caller_of(request)))


def _add_state(app: FastAPI, backend: Backend, *, with_tenants: bool) -> None:
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

    @app.get("/version")
    async def version() -> Response:
        return JSONResponse({"version": __version__})

    @app.get("/openapi.json")
    async def openapi() -> Response:
        return JSONResponse(document(with_tenants=with_tenants))

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        caller = caller_of(request)
        if caller is not None:
            caller.check_operator()
        return PlainTextResponse(await backend.metrics(), media_type=PROMETHEUS)


def _add_tenancy(app: FastAPI, gate: Gate) -> None:
    @app.get("/v1/usage")
    async def usage(request: Request) -> Response:
        caller = _known(request)
        return JSONResponse({"object": "usage", "tenants": await gate.usage(caller)})

    @app.post("/v1/operator/keys/{key_id}/revoke")
    async def revoke(key_id: str, request: Request) -> Response:
        caller = _known(request)
        caller.check_operator()
        confirmed = await gate.revoke(key_id, caller)
        if confirmed is None:
            raise UnknownKey(f"There is no key {key_id[:64]!r}", "key_id", "key_not_found")
        return JSONResponse({"key_id": key_id, "revoked": True, "routers": confirmed})


def _known(request: Request) -> Caller:
    """Whose key the request carries, on a route that only tenants and operators have."""
    caller = caller_of(request)
    assert caller is not None
    return caller


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
