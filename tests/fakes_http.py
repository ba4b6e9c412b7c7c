"""A scripted backend and two ways to call the app over it: in process, and over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from s2d_ray.config import HttpConfig
from s2d_ray.core.cascade import Plan
from s2d_ray.engine.messages import (
    Delta,
    Event,
    Finished,
    FinishReason,
    GenerateRequest,
    Prompt,
    RoundCount,
    Started,
    TextPrompt,
    Tokens,
    TokenTrace,
    Usage,
)
from s2d_ray.errors import RequestError, Unauthorized
from s2d_ray.policy.keys import Caller
from s2d_ray.policy.routing import Rules, TargetState
from s2d_ray.serve.backend import Health, Routing, TargetHealth, TargetInfo
from s2d_ray.serve.gate import OpenTicket, Visit
from s2d_ray.serve.ingress import build_app
from tests.published import check_answer

HANG = "hang"
"""A step of a script at which the backend stays silent until it is aborted."""

PLAN = Plan((0.25, 0.75), 0.1, 6)
USAGE = Usage(
    prompt_tokens=7,
    completion_tokens=4,
    rounds=2,
    drafted_tokens=5,
    accepted_tokens=2,
    accepted_by_submodel={4: 1, 8: 1},
    accepted_by_rank={0: 2},
    draft_misses=1,
    rounds_by_length=(RoundCount(2, 2, 1), RoundCount(3, 0, 1)),
)
FINISHED = Finished(FinishReason.STOP, USAGE)
TRACED = (
    Delta("Pa", (TokenTrace(11, "Pa", None, None, 1),)),
    Delta("ris é", (TokenTrace(12, "ris", 4, 0.5, 1), TokenTrace(13, " é", 8, 0.25, 1))),
    Delta("!", (TokenTrace(14, "!", None, None, 2),)),
)
TEXT = "Paris é!"

Step = Event | Exception | str | threading.Event
Script = Sequence[Step]
SCRIPT: tuple[Step, ...] = (Started(7), *(Delta(delta.text) for delta in TRACED), FINISHED)
TRACED_SCRIPT: tuple[Step, ...] = (Started(7), *TRACED, FINISHED)


class FakeBackend:
    """Plays a script for every request, and records requests and finished aborts.

    script: one for all, or a function of the request. Its tokens are the characters of a text.
    A step that is a `threading.Event` waits for it.
    rules: of routing, with which there is `auto`. They, `costs`, `dead` and `state` may be changed.
    """

    def __init__(
        self,
        script: Script | Callable[[GenerateRequest], Script] = SCRIPT,
        *,
        health: Health | Exception | None = None,
        rules: Rules[Plan] | None = None,
        costs: Mapping[str, float] | None = None,
    ) -> None:
        self.script = script
        self.requests: list[tuple[str, GenerateRequest]] = []
        self.prompts: list[Prompt] = []
        self.hanging = threading.Event()
        self.closed = threading.Event()
        self.num_closed = 0
        self.state = health or Health(True, False, {"tiny": TargetHealth(True, True)}, {})
        self.costs = costs or {"tiny": 1.0, "tiny-int8": 1.0}
        self.rules = rules
        self.dead: set[str] = set()

    def targets(self) -> Mapping[str, TargetInfo]:
        return {name: TargetInfo(name, 1_700_000_000, "folder/tiny", 64) for name in self.costs}

    def routing(self) -> Routing:
        states = {
            name: TargetState(True, 64, cost, 8, 1_000.0, 20.0) for name, cost in self.costs.items()
        }
        return Routing(PLAN, states, self.rules or Rules(), has_auto=self.rules is not None)

    async def alive(self) -> Collection[str]:
        return self.costs.keys() - self.dead

    async def generate(self, target: str, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        self.requests.append((target, request))
        try:
            for step in self.script(request) if callable(self.script) else self.script:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, str):
                    self.hanging.set()
                    await asyncio.Event().wait()
                elif isinstance(step, threading.Event):
                    while not step.is_set():
                        await asyncio.sleep(0.01)
                else:
                    yield step
                    await asyncio.sleep(0)  # others may go on, as between two of Ray's answers
        finally:
            # A real abort crosses a process border: it must be allowed to await.
            await asyncio.sleep(0.01)
            self.num_closed += 1
            self.closed.set()

    async def tokenize(self, target: str, prompt: Prompt) -> Tokens:
        self.prompts.append(prompt)
        text = prompt.text if isinstance(prompt, TextPrompt) else "chat"
        return Tokens(tuple(map(ord, text)), tuple(text), 64)

    async def detokenize(self, target: str, token_ids: Sequence[int]) -> str:
        if 0 in token_ids:
            raise RequestError("token id 0 is none of this target's", "tokens")
        return "".join(map(chr, token_ids))

    async def metrics(self) -> str:
        return "# HELP rounds Rounds.\n# TYPE rounds counter\nrounds 3\n"

    async def health(self) -> Health:
        if isinstance(self.state, Exception):
            raise self.state
        return self.state


class FakeGate:
    """Knows one key, that of the tenant acme. refusal: what its requests are refused with."""

    KEY = "s2d-key"

    def __init__(self, refusal: RequestError | None = None) -> None:
        self.refusal = refusal

    async def caller_of(self, authorization: str | None) -> Caller:
        if authorization != f"Bearer {self.KEY}":
            raise Unauthorized("The API key is not valid", code="invalid_api_key")
        return Caller("acme", "key")

    def ticket(self, visit: Visit) -> OpenTicket:
        if self.refusal is not None:
            raise self.refusal
        return OpenTicket()


def app_over(backend: FakeBackend, **http: Any) -> FastAPI:
    return build_app(backend, HttpConfig(**http))


def chat_body(**fields: Any) -> dict[str, Any]:
    """A valid body of a chat completion, with `fields` set or replaced."""
    return {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]} | fields


def text_body(**fields: Any) -> dict[str, Any]:
    """A valid body of a completion, with `fields` set or replaced."""
    return {"model": "tiny", "prompt": "hi"} | fields


def call(app: FastAPI, method: str, path: str, **options: Any) -> httpx.Response:
    """One request in process, whose answer is held to the published document.

    An exception that leaves the app is raised here.
    """

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **options)

    response = asyncio.run(send())
    check_answer(method, path, response)
    return response


def post(app: FastAPI, **fields: Any) -> httpx.Response:
    """A chat completion in process."""
    return call(app, "POST", "/v1/chat/completions", json=chat_body(**fields))


def events(response: httpx.Response) -> list[dict[str, Any]]:
    """The JSON of each server-sent event but the closing [DONE]."""
    blocks = response.text.split("\n\n")
    assert blocks.pop() == ""
    assert all(block.startswith("data: ") for block in blocks)
    return [json.loads(block[6:]) for block in blocks if block != "data: [DONE]"]


@contextlib.contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """A real server of `app` on a free loopback port, in a thread; yields its URL."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_level="critical", lifespan="off", ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
