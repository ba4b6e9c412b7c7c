"""No request outlives `http.max_request_s`: it is ended, told why, and aborted at the backend."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from s2d_ray.config import HttpConfig
from s2d_ray.engine.messages import Delta, Prompt, Started, Tokens
from s2d_ray.serve.ingress import build_app
from tests.fakes_http import HANG, FakeBackend, Step, call, chat_body, events, post
from tests.ledger_site import CHAT, site, until

SHORT = HttpConfig().model_copy(update={"max_request_s": 0.05})
LONG_ENOUGH = HttpConfig(max_request_s=1)
"""For a request to be granted, also on a busy machine."""


ENDLESS: list[Step] = [Started(7), Delta("abc"), HANG]


class Silent(FakeBackend):
    """Never answers a call."""

    async def tokenize(self, target: str, prompt: Prompt) -> Tokens:
        await asyncio.Event().wait()
        raise AssertionError


def app_over(backend: FakeBackend) -> FastAPI:
    return build_app(backend, SHORT)


def assert_told(response: httpx.Response) -> None:
    assert response.status_code == 503
    assert "retry-after" in response.headers
    assert response.json()["error"]["code"] == "deadline"


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_does_not_begin_in_time_is_503(stream: bool) -> None:
    backend = FakeBackend(["hang"])
    assert_told(post(app_over(backend), stream=stream))
    assert backend.closed.is_set()


def test_a_whole_reply_that_does_not_end_in_time_is_503() -> None:
    backend = FakeBackend([Started(1), Delta("a"), "hang"])
    assert_told(post(app_over(backend)))
    assert backend.closed.is_set()


def test_a_stream_that_does_not_end_in_time_ends_with_the_error() -> None:
    """What was written before it has been sent."""
    backend = FakeBackend([Started(1), Delta("a"), "hang"])
    response = post(app_over(backend), stream=True)
    assert response.status_code == 200
    *chunks, last = events(response)
    written: list[Any] = [chunk["choices"][0]["delta"].get("content") for chunk in chunks]
    assert "a" in written
    assert last["error"]["code"] == "deadline"
    assert "[DONE]" not in response.text
    assert backend.closed.is_set()


def test_one_text_that_hangs_ends_its_neighbours_of_the_same_request() -> None:
    scripts = iter([["hang"], [Started(1), "hang"]])
    backend = FakeBackend(lambda request: next(scripts))
    assert_told(post(app_over(backend), n=2))
    assert backend.num_closed == 2


def test_tokens_that_are_not_told_in_time_are_503() -> None:
    body = {"model": "tiny", "prompt": "a"}
    assert_told(call(app_over(Silent()), "POST", "/tokenize", json=body))


@pytest.mark.parametrize(
    ("path", "body", "num_tokens"),
    [
        (CHAT, chat_body(), 10),
        (CHAT, chat_body(stream=True), 10),
        ("/tokenize", {"model": "tiny", "prompt": "a"}, 0),
    ],
)
def test_usage_tells_that_the_request_was_ended_and_not_left(
    tmp_path: Path, path: str, body: dict[str, Any], num_tokens: int
) -> None:
    async def run() -> None:
        async with site(tmp_path) as made:
            client = made.client(Silent(ENDLESS), http=LONG_ENOUGH)
            await client.post(path, json=body, headers=made.tenants.header("acme"))
            await until(made.usage_lines)
            (record,) = made.usage_lines()
            assert record["status"] == 503
            assert record["prompt_tokens"] + record["completion_tokens"] == num_tokens

    asyncio.run(run())
