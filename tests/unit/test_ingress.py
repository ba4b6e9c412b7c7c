"""The HTTP edge, in process and over a real socket, with a scripted backend."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import openai
import pytest
from fastapi import FastAPI
from starlette.types import Message

from s2d_ray.config import HttpConfig
from s2d_ray.core.cascade import Plan
from s2d_ray.engine.messages import Delta, Refused, Started
from s2d_ray.errors import RequestError, S2DError
from s2d_ray.policy.routing import PlanRule, Rules
from s2d_ray.serve import ingress
from s2d_ray.serve.backend import Health, TargetHealth
from tests.fakes_http import (
    FINISHED,
    HANG,
    SCRIPT,
    TEXT,
    TRACED_SCRIPT,
    FakeBackend,
    Step,
    app_over,
    call,
    chat_body,
    events,
    post,
    serving,
)

CHAT = "/v1/chat/completions"
TOTALS = {
    "rounds": 2,
    "mean_accepted_length": 2.0,
    "accepted_by_submodel": {"4": 1, "8": 1},
    "accepted_by_rank": {"0": 2},
    "draft_misses": 1,
}
CHOSEN = {
    "seed": 5,
    "mode": "auto",
    "plan": {
        "exit_thresholds": [0.25, 0.75],
        "stop_threshold": 0.1,
        "max_proposal": 6,
        "tree_width": 1,
        "tree_depth": 32,
        "min_match": 3,
        "max_lookup": 10,
        "draft_toll": 0.5,
    },
}
TOKENS = [
    {"token_id": 11, "text": "Pa", "drafted_by": None, "confidence": None},
    {"token_id": 12, "text": "ris", "drafted_by": 4, "confidence": 0.5},
    {"token_id": 13, "text": " é", "drafted_by": 8, "confidence": 0.25},
    {"token_id": 14, "text": "!", "drafted_by": None, "confidence": None},
]
for _token, _round in zip(TOKENS, (1, 1, 1, 2), strict=True):
    _token |= {"rank": None, "round": _round}
USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 4,
    "total_tokens": 11,
    "prompt_tokens_details": {"cached_tokens": 0},
    "completion_tokens_details": {
        "accepted_prediction_tokens": 2,
        "rejected_prediction_tokens": 3,
    },
}
METRICS = {
    "speculative_decoding": {
        "mean_acceptance_length": 2.0,
        "draft_acceptance_rate": 0.4,
        "acceptance_histogram": [1, 0, 1, 0, 0, 0, 0],
        "acceptance_histogram_by_draft_length": {"2": [0, 0, 1], "3": [1, 0, 0, 0]},
        "num_spec_steps": 2,
        "num_accepted_draft_tokens": 2,
        "num_draft_tokens": 5,
        "num_spec_tokens": 6,
    }
}
GOLDEN = rb"""data: {"id":"ID","created":0,"model":"tiny","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"s2d":{"seed":5,"mode":"auto","plan":{"exit_thresholds":[0.25,0.75],"stop_threshold":0.1,"max_proposal":6,"tree_width":1,"tree_depth":32,"min_match":3,"max_lookup":10,"draft_toll":0.5}}}

data: {"id":"ID","created":0,"model":"tiny","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"Pa"},"finish_reason":null}]}

data: {"id":"ID","created":0,"model":"tiny","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"ris \u00e9"},"finish_reason":null}]}

data: {"id":"ID","created":0,"model":"tiny","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"!"},"finish_reason":null}]}

data: {"id":"ID","created":0,"model":"tiny","object":"chat.completion.chunk","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"s2d":{"rounds":2,"mean_accepted_length":2.0,"accepted_by_submodel":{"4":1,"8":1},"accepted_by_rank":{"0":2},"draft_misses":1}}

data: [DONE]

"""  # noqa: E501


def text_of(chunks: list[dict[str, Any]]) -> str:
    return "".join(
        choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"]
    )


def error_of(response: httpx.Response) -> dict[str, Any]:
    assert list(response.json()) == ["error"]
    error: dict[str, Any] = response.json()["error"]
    assert list(error) == ["message", "type", "param", "code"]
    return error


def all_request_errors() -> Iterator[type[RequestError]]:
    waiting = [RequestError]
    while waiting:
        found = waiting.pop()
        yield found
        waiting += found.__subclasses__()


# Replies


def test_a_whole_reply_has_text_usage_and_speculation() -> None:
    response = post(app_over(FakeBackend()), seed=5)
    assert response.status_code == 200
    body = response.json()
    assert body.pop("id").startswith("chatcmpl-")
    assert body.pop("created") > 1_700_000_000
    assert body == {
        "model": "tiny",
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": TEXT},
                "finish_reason": "stop",
                "logprobs": None,
            }
        ],
        "usage": USAGE,
        "s2d": CHOSEN | TOTALS,
        "metrics": METRICS,
    }


def test_a_stream_is_these_bytes() -> None:
    response = post(app_over(FakeBackend()), seed=5, stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    raw = re.sub(rb'"id":"chatcmpl-\w+","created":\d+', b'"id":"ID","created":0', response.content)
    assert raw == GOLDEN


@pytest.mark.parametrize("trace", [False, True])
def test_the_joined_stream_is_the_whole_reply(trace: bool) -> None:
    backend = FakeBackend(TRACED_SCRIPT if trace else SCRIPT)
    options: dict[str, Any] = {"seed": 5, "s2d": {"trace": trace}}
    whole = post(app_over(backend), **options).json()
    chunks = events(post(app_over(backend), stream=True, **options))
    assert text_of(chunks) == whole["choices"][0]["message"]["content"] == TEXT
    assert chunks[-1]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    streamed: dict[str, Any] = {}
    for chunk in chunks:
        for key, value in chunk.get("s2d", {}).items():
            streamed[key] = streamed.get(key, []) + value if key == "tokens" else value
    assert streamed == whole["s2d"]
    assert streamed.get("tokens") == (TOKENS if trace else None)


def test_a_traced_token_without_text_still_has_a_chunk_and_empty_text_has_none() -> None:
    held = TRACED_SCRIPT[1]
    assert isinstance(held, Delta)
    backend = FakeBackend([Started(1), Delta(""), Delta("", held.tokens), FINISHED])
    chunks = events(post(app_over(backend), stream=True, s2d={"trace": True}))
    assert [chunk.get("s2d", {}).get("tokens") for chunk in chunks] == [None, TOKENS[:1], None]


def test_include_usage_adds_one_last_chunk_without_choices() -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    response = post(app_over(FakeBackend()), **options)
    assert response.text.endswith("data: [DONE]\n\n")
    *others, last = events(response)
    assert (last["choices"], last["usage"], last["metrics"]) == ([], USAGE, METRICS)
    assert all(chunk["usage"] is None for chunk in others)
    plain = events(post(app_over(FakeBackend()), stream=True))
    assert not any("usage" in chunk for chunk in plain)


def test_line_separators_in_text_do_not_split_an_event() -> None:
    text = "a\u2028b\u0085c\nd\r\n\n"
    backend = FakeBackend([Started(1), Delta(text), FINISHED])
    assert text_of(events(post(app_over(backend), stream=True))) == text


def test_the_seed_drawn_is_returned_and_served() -> None:
    backend = FakeBackend()
    for stream in (False, True):
        response = post(app_over(backend), stream=stream)
        seed = (events(response)[0] if stream else response.json())["s2d"]["seed"]
        assert response.headers["x-s2d-seed"] == str(seed)
        assert backend.requests[-1][1].sampling.seed == seed
    assert backend.requests[0][1].sampling.seed != backend.requests[1][1].sampling.seed


def test_a_request_goes_to_the_target_it_names_under_an_id_of_its_own() -> None:
    rows = [PlanRule(Plan((), 0.0, 1), target="tiny-int8")]
    backend = FakeBackend(rules=Rules(plans=rows))
    headers = {"x-request-id": "same"}
    for model in ("tiny", "tiny-int8"):
        call(app_over(backend), "POST", CHAT, json=chat_body(model=model), headers=headers)
    (first, one), (second, two) = backend.requests
    assert (first, second) == ("tiny", "tiny-int8")
    assert one.request_id != two.request_id
    assert (one.plan.max_proposal, two.plan.max_proposal) == (6, 1)


def test_the_generator_is_closed_after_every_reply() -> None:
    for stream in (False, True):
        backend = FakeBackend()
        post(app_over(backend), stream=stream)
        assert backend.closed.is_set()


# Other routes


def test_models_are_listed_and_shown() -> None:
    app = app_over(FakeBackend())
    listed = call(app, "GET", "/v1/models").json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["tiny", "tiny-int8"]
    shown = call(app, "GET", "/v1/models/tiny").json()
    assert shown == listed["data"][0]
    assert (shown["object"], shown["created"]) == ("model", 1_700_000_000)
    assert shown["s2d"] == {"model": "folder/tiny", "max_context": 64, "plan": CHOSEN["plan"]}


STATES = [
    (Health(True, False, {"tiny": TargetHealth(True, True, "closed", {"rounds": 3})}), "ok", 200),
    (Health(True, True, {"tiny": TargetHealth(True, False, "open")}), "degraded", 200),
    (Health(False, True, {"tiny": TargetHealth(False)}), "starting", 503),
    (RuntimeError("no answer"), "starting", 503),
]


@pytest.mark.parametrize(("state", "status", "readyz"), STATES)
def test_health_is_always_200_and_readyz_only_with_a_target(
    state: Health | Exception, status: str, readyz: int
) -> None:
    app = app_over(FakeBackend(health=state))
    health = call(app, "GET", "/health")
    assert (health.status_code, health.json()["status"]) == (200, status)
    ready = call(app, "GET", "/readyz")
    assert (ready.status_code, ready.json()["status"]) == (readyz, status)
    assert ("error" in ready.json()) == (readyz == 503)


def test_a_backend_that_does_not_tell_its_state_is_not_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def silence() -> Health:
        await asyncio.Event().wait()
        raise AssertionError

    backend = FakeBackend()
    monkeypatch.setattr(backend, "health", silence)
    monkeypatch.setattr(ingress, "HEALTH_TIMEOUT_S", 0.01)
    assert call(app_over(backend), "GET", "/health").json()["status"] == "starting"
    assert call(app_over(backend), "GET", "/readyz").status_code == 503


def test_health_shows_targets_counters_and_draft() -> None:
    target = TargetHealth(True, True, "half_open", {"rounds": 3})
    backend = FakeBackend(health=Health(True, True, {"tiny": target}, {"epoch": 2}))
    body = call(app_over(backend), "GET", "/health").json()
    assert body["draft"] == {"epoch": 2}
    assert body["targets"]["tiny"] == {
        "ready": True,
        "bitwise_exact": True,
        "draft_circuit": "half_open",
        "counters": {"rounds": 3},
        "control": {},
    }


# Errors


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"model": "gpt-5"}, 404, "model"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "user", "content": 3}]}, 400, "messages.0.content"),
        ({"max_tokens": "3"}, 400, "max_tokens"),
        ({"max_tokens": -3}, 400, "max_tokens"),
        ({"temperature": 1e30}, 400, "temperature"),
        ({"seed": 2**64}, 400, "seed"),
        ({"s2d": {"max_proposal": 1_000}}, 400, "s2d.max_proposal"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_bad_input_names_the_field(
    fields: dict[str, Any], status: int, param: str, stream: bool
) -> None:
    backend = FakeBackend()
    response = post(app_over(backend), stream=stream, **fields)
    assert (response.status_code, error_of(response)["param"]) == (status, param)
    assert not backend.requests


def test_an_unknown_model_is_told_which_there_are() -> None:
    asked = post(app_over(FakeBackend()), model="gpt-5")
    shown = call(app_over(FakeBackend()), "GET", "/v1/models/gpt-5")
    for response in (asked, shown):
        assert response.status_code == 404
        error = error_of(response)
        assert error["code"] == "model_not_found"
        assert "tiny, tiny-int8" in error["message"]


def test_malformed_json_is_400() -> None:
    response = call(app_over(FakeBackend()), "POST", CHAT, content=b'{"model": ')
    assert (response.status_code, error_of(response)["code"]) == (400, "invalid_json")


@pytest.mark.parametrize("stream", [False, True])
def test_a_refused_event_is_its_status_before_any_byte_of_a_stream(stream: bool) -> None:
    backend = FakeBackend([Refused(400, "9 tokens are too many", "messages", "context_length")])
    response = post(app_over(backend), stream=stream)
    assert response.status_code == 400
    assert error_of(response) == {
        "message": "9 tokens are too many",
        "type": "invalid_request_error",
        "param": "messages",
        "code": "context_length",
    }
    assert backend.closed.is_set()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (503, "service_unavailable_error"),
        (504, "server_error"),
    ],
)
def test_a_refused_event_has_the_type_of_its_status(status: int, kind: str) -> None:
    response = post(app_over(FakeBackend([Refused(status, "no")])))
    assert (response.status_code, error_of(response)["type"]) == (status, kind)
    assert ("retry-after" in response.headers) == (status == 503)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", list(all_request_errors()))
def test_every_request_error_has_its_status(kind: type[RequestError], stream: bool) -> None:
    response = post(app_over(FakeBackend([kind("no", "field", "why")])), stream=stream)
    assert response.status_code == kind.status
    assert 400 <= kind.status < 600
    expected = {"message": "no", "type": kind.type, "param": "field", "code": "why"}
    assert error_of(response) == expected


UNEXPECTED: list[list[Step]] = [
    [ValueError("secret")],
    [Started(1), ValueError("secret")],
    [Started(1), S2DError("secret")],
    [Started(1)],
    [],
]


@pytest.mark.parametrize("script", UNEXPECTED)
def test_the_unexpected_is_500_with_the_request_id_and_no_internals(
    script: list[Step], caplog: pytest.LogCaptureFixture
) -> None:
    response = post(app_over(FakeBackend(script)))
    assert response.status_code == 500
    error = error_of(response)
    assert error["type"] == "server_error"
    request_id = response.headers["x-request-id"]
    assert request_id in error["message"]
    assert "secret" not in response.text
    assert request_id in caplog.text


@pytest.mark.parametrize(
    ("failure", "kind", "message"),
    [
        (ValueError("secret"), "server_error", "Internal error"),
        (RequestError("no", "field"), "invalid_request_error", "no"),
        (Refused(503, "gone"), "service_unavailable_error", "gone"),
        (None, "server_error", "Internal error"),
    ],
)
def test_an_error_in_a_stream_is_its_last_event(failure: Any, kind: str, message: str) -> None:
    script: list[Step] = [Started(1), Delta("a"), *([] if failure is None else [failure])]
    response = post(app_over(FakeBackend(script)), stream=True)
    assert response.status_code == 200
    *chunks, last = events(response)
    assert text_of(chunks) == "a"
    assert list(last) == ["error"]
    assert last["error"]["type"] == kind
    assert message in last["error"]["message"]
    assert "secret" not in response.text
    assert "[DONE]" not in response.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("GET", "/playground/", 404),
        ("GET", "/v1/models/", 404),
        ("GET", "/docs", 404),
        ("GET", CHAT, 405),
        ("POST", "/v1/models", 405),
        ("DELETE", "/health", 405),
    ],
)
def test_unknown_paths_and_methods_are_refused_in_the_same_form(
    method: str, path: str, status: int
) -> None:
    response = call(app_over(FakeBackend()), method, path)
    assert response.status_code == status
    assert path in error_of(response)["message"]
    assert ("allow" in response.headers) == (status == 405)


# Size of a body


LIMIT = 4_096


def test_a_body_of_the_limit_is_read_and_one_byte_more_is_413() -> None:
    app = app_over(FakeBackend(), max_body_bytes=LIMIT)
    body = json.dumps(chat_body()).encode()
    fits = call(app, "POST", CHAT, content=body + b" " * (LIMIT - len(body)))
    over = call(app, "POST", CHAT, content=body + b" " * (LIMIT - len(body) + 1))
    assert fits.status_code == 200
    assert (over.status_code, error_of(over)["code"]) == (413, "body_too_large")
    assert str(LIMIT) in error_of(over)["message"]


def test_a_body_without_length_is_not_read_beyond_the_limit() -> None:
    num_parts = 0

    async def parts() -> AsyncIterator[bytes]:
        nonlocal num_parts
        while num_parts < 1_000:
            num_parts += 1
            yield b" " * 1_024

    response = call(app_over(FakeBackend(), max_body_bytes=LIMIT), "POST", CHAT, content=parts())
    assert response.status_code == 413
    assert num_parts == LIMIT // 1_024 + 1


def test_ten_mebibytes_over_a_socket_are_413() -> None:
    with serving(app_over(FakeBackend())) as url:
        for content in (b" " * (10 * 2**20), iter([b" " * 2**20] * 10)):
            response = httpx.post(url + CHAT, content=content)
            assert response.status_code == 413
            assert error_of(response)["code"] == "body_too_large"


# Request ids


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/health", 200),
        ("GET", "/nothing", 404),
        ("GET", CHAT, 405),
        ("POST", CHAT, 400),
    ],
)
def test_every_answer_has_a_request_id_the_clients_if_it_is_safe(
    method: str, path: str, status: int
) -> None:
    app = app_over(FakeBackend())
    for given in ("abc-1.2:3_X", "a" * 128):
        response = call(app, method, path, headers={"x-request-id": given})
        assert response.status_code == status
        assert response.headers.get_list("x-request-id") == [given]
    for unsafe in ("", "a" * 129, "a b", "é".encode(), 'a"b'):
        response = call(app, method, path, headers=[(b"x-request-id", unsafe)])
        assert re.fullmatch(r"[0-9a-f]{32}", response.headers["x-request-id"])


def test_replies_and_failures_have_a_request_id_too() -> None:
    for stream in (False, True):
        for script in (SCRIPT, (ValueError(),), (Refused(503, "no"),)):
            app = app_over(FakeBackend(script))
            assert post(app, stream=stream).headers["x-request-id"]


@pytest.mark.parametrize("name", ["x-request-timeout-seconds", "X-Request-Disconnect-Disabled"])
def test_headers_that_would_set_serves_own_deadlines_are_refused(name: str) -> None:
    backend = FakeBackend()
    refused = call(app_over(backend), "POST", CHAT, json=chat_body(), headers={name: "1"})
    assert (refused.status_code, error_of(refused)["param"]) == (400, name.lower())
    assert refused.headers["x-request-id"]
    assert backend.requests == []


def test_behind_a_proxy_that_adds_the_request_id_it_is_not_added_twice() -> None:
    app = ingress.build_app(FakeBackend(), HttpConfig(), answers_request_id=False)
    assert "x-request-id" not in call(app, "GET", "/health").headers


# Clients that leave


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("script", [[HANG], [Started(1), Delta("a"), HANG]])
def test_a_client_that_leaves_a_socket_closes_the_generator(
    script: list[Any], stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    backend = FakeBackend(script)
    with serving(app_over(backend)) as url:
        with contextlib.suppress(httpx.ReadTimeout):
            httpx.post(url + CHAT, json=chat_body(stream=stream), timeout=0.3)
        assert backend.hanging.is_set()
        assert backend.closed.wait(30)
        assert httpx.get(url + "/health").status_code == 200
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def asgi_call(
    app: FastAPI, spec_version: str, gone: asyncio.Event, parts: list[bytes]
) -> list[Message]:
    """One chat completion without a server; returns what was sent.

    The client sends `parts`, the last one complete unless it is `gone` by then.
    """
    sent: list[Message] = []
    left = list(parts)

    async def receive() -> Message:
        if len(left) > 1 or (left and not gone.is_set()):
            return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": spec_version},
        "http_version": "1.1",
        "method": "POST",
        "path": CHAT,
        "raw_path": CHAT.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [],
    }
    await app(scope, receive, send)
    return sent


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("leave", ["disconnect", "cancel"])
@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
@pytest.mark.parametrize("script", [[HANG], [Started(1), HANG], [Started(1), Delta("a"), HANG]])
def test_any_way_to_leave_closes_the_generator(
    script: list[Any], spec_version: str, leave: str, stream: bool
) -> None:
    backend = FakeBackend(script)
    body = json.dumps(chat_body(stream=stream)).encode()

    async def run() -> None:
        gone = asyncio.Event()
        task = asyncio.create_task(asgi_call(app_over(backend), spec_version, gone, [body]))
        while not backend.hanging.is_set():
            await asyncio.sleep(0.001)
        gone.set() if leave == "disconnect" else task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait_for(task, 30)
        assert backend.closed.is_set()

    asyncio.run(run())


def test_a_client_that_leaves_within_its_body_gets_no_answer_and_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def run() -> list[Message]:
        gone = asyncio.Event()
        gone.set()
        return await asgi_call(app_over(FakeBackend()), "2.3", gone, [b"{", b'"model"'])

    assert asyncio.run(run()) == []
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


# The openai package


@pytest.fixture
def client() -> Iterator[openai.OpenAI]:
    with (
        serving(app_over(FakeBackend(TRACED_SCRIPT))) as url,
        openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as found,
    ):
        yield found


def test_the_openai_client_gets_a_whole_reply(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="tiny", messages=[{"role": "developer", "content": "hi"}], seed=5
    )
    assert reply.choices[0].message.content == TEXT
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage is not None
    assert reply.usage.completion_tokens_details is not None
    assert reply.usage.completion_tokens_details.accepted_prediction_tokens == 2
    assert reply.usage.completion_tokens_details.rejected_prediction_tokens == 3
    assert reply.model_extra is not None
    assert reply.model_extra["s2d"]["seed"] == 5


def test_the_openai_client_gets_a_stream(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        stream=True,
        stream_options={"include_usage": True},
        max_completion_tokens=9,
        extra_body={"s2d": {"mode": "force", "trace": True}},
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == TEXT
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 11


def test_the_openai_client_takes_a_reply_back_as_history(client: openai.OpenAI) -> None:
    question: Any = {"role": "user", "content": "hi"}
    reply = client.chat.completions.create(model="tiny", messages=[question])
    message: Any = reply.choices[0].message
    again = client.chat.completions.create(model="tiny", messages=[question, message, question])
    assert again.choices[0].message.content == TEXT


def test_the_openai_client_lists_models_and_understands_errors(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny", "tiny-int8"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="no", messages=[{"role": "user", "content": "hi"}])
    assert (missing.value.param, missing.value.code) == ("model", "model_not_found")
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model="tiny", messages=[])
    assert wrong.value.param == "messages"
    assert wrong.value.request_id
