"""What a request body may say, and how it is named when it says too much."""

from __future__ import annotations

import json
from typing import Any

import pytest

from s2d_ray.core.cascade import Plan
from s2d_ray.engine.messages import Finished, FinishReason, GenerateRequest, Mode, Usage
from s2d_ray.errors import RequestError
from s2d_ray.serve.openai_schema import MAX_MESSAGES, Reply, SpeculationOptions, parse_request
from tests.fakes_http import FINISHED, PLAN, TEXT, TRACED, chat_body


def checked(**fields: Any) -> GenerateRequest:
    return parse_request(json.dumps(chat_body(**fields)).encode()).to_generate("id", PLAN)


def refused(body: bytes) -> RequestError:
    with pytest.raises(RequestError) as caught:
        parse_request(body).to_generate("id", PLAN)
    assert "\n" not in caught.value.message
    return caught.value


USER = {"role": "user", "content": "hi"}

WRONG = [
    ("model", {"model": 3}),
    ("model", {"model": ""}),
    ("model", {"model": None}),
    ("messages", {"messages": []}),
    ("messages", {"messages": "hi"}),
    ("messages", {"messages": None}),
    ("messages", {"messages": [USER] * (MAX_MESSAGES + 1)}),
    ("messages.0", {"messages": ["hi"]}),
    ("messages.1.role", {"messages": [USER, {"role": "tool", "content": "x"}]}),
    ("messages.0.content", {"messages": [{"role": "user"}]}),
    ("messages.0.content", {"messages": [{"role": "user", "content": None}]}),
    ("messages.0.content", {"messages": [{"role": "user", "content": 5}]}),
    ("messages.0.content", {"messages": [{"role": "user", "content": []}]}),
    (
        "messages.0.content.0.type",
        {"messages": [{"role": "user", "content": [{"type": "image_url", "text": "x"}]}]},
    ),
    (
        "messages.0.content.0.text",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]},
    ),
    ("messages.0.name", {"messages": [USER | {"name": "bob"}]}),
    ("messages.0.tool_calls", {"messages": [USER | {"tool_calls": []}]}),
    ("stream", {"stream": "yes"}),
    ("stream", {"stream": 1}),
    ("stream_options", {"stream_options": {"include_usage": True}}),
    ("stream_options.include_usage", {"stream_options": {"include_usage": 1}, "stream": True}),
    ("stream_options.extra", {"stream_options": {"extra": 1}, "stream": True}),
    ("max_tokens", {"max_tokens": 0}),
    ("max_tokens", {"max_tokens": -1}),
    ("max_tokens", {"max_tokens": 10**9}),
    ("max_tokens", {"max_tokens": 10**400}),
    ("max_tokens", {"max_tokens": "3"}),
    ("max_tokens", {"max_tokens": 3.5}),
    ("max_tokens", {"max_tokens": True}),
    ("max_tokens", {"max_tokens": 3, "max_completion_tokens": 4}),
    ("max_completion_tokens", {"max_completion_tokens": -5}),
    ("temperature", {"temperature": -0.1}),
    ("temperature", {"temperature": 2.01}),
    ("temperature", {"temperature": "1"}),
    ("temperature", {"temperature": True}),
    ("temperature", {"temperature": float("nan")}),
    ("temperature", {"temperature": float("inf")}),
    ("top_p", {"top_p": 0}),
    ("top_p", {"top_p": 1.1}),
    ("top_p", {"top_p": float("-inf")}),
    ("top_k", {"top_k": -1}),
    ("top_k", {"top_k": 2**31 + 1}),
    ("seed", {"seed": -1}),
    ("seed", {"seed": 2**53}),
    ("seed", {"seed": 1.5}),
    ("stop", {"stop": ""}),
    ("stop", {"stop": 4}),
    ("stop", {"stop": ["a"] * 5}),
    ("stop.1", {"stop": ["a", ""]}),
    ("stop.0", {"stop": ["a" * 257]}),
    ("s2d", {"s2d": "force"}),
    ("s2d.mode", {"s2d": {"mode": "always"}}),
    ("s2d.exit_thresholds", {"s2d": {"exit_thresholds": 0.5}}),
    ("s2d.exit_thresholds.1", {"s2d": {"exit_thresholds": [0.5, 1.5]}}),
    ("s2d.stop_threshold", {"s2d": {"stop_threshold": -1}}),
    ("s2d.max_proposal", {"s2d": {"max_proposal": 33}}),
    ("s2d.max_proposal", {"s2d": {"max_proposal": -1}}),
    ("s2d.trace", {"s2d": {"trace": "true"}}),
    ("s2d.max_propsal", {"s2d": {"max_propsal": 3}}),
    ("n", {"n": 2}),
    ("n", {"n": True}),
    ("logprobs", {"logprobs": True}),
    ("presence_penalty", {"presence_penalty": 0.1}),
    ("frequency_penalty", {"frequency_penalty": -0.1}),
    ("tools", {"tools": []}),
    ("logit_bias", {"logit_bias": {"5": 1}}),
    ("response_format", {"response_format": {"type": "json_object"}}),
    ("metadata.k", {"metadata": {"k": 3}}),
]


@pytest.mark.parametrize(
    ("param", "fields"), WRONG, ids=[f"{p}-{i}" for i, (p, _) in enumerate(WRONG)]
)
def test_a_wrong_field_is_refused_by_its_dotted_path(param: str, fields: dict[str, Any]) -> None:
    error = refused(json.dumps(chat_body(**fields)).encode())
    assert error.status == 400
    assert error.param == param
    assert param in error.message


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"model": "tiny",}', b"\xff\xfe", b'{"model": "\\ud800"}', b"[" * 100_000],
    ids=["empty", "cut", "comma", "not-utf8", "half-a-character", "deep"],
)
def test_malformed_json_is_refused_as_such(body: bytes) -> None:
    error = refused(body)
    assert error.code == "invalid_json"
    assert error.param is None


@pytest.mark.parametrize("body", [b"null", b"[]", b'"hi"', b"3"])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    assert refused(body).param is None


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999"])
def test_a_number_that_is_not_finite_is_refused_as_such(number: bytes) -> None:
    body = json.dumps(chat_body(temperature=0)).encode().replace(b": 0}", b": " + number + b"}")
    assert "finite" in refused(body).message


def test_a_missing_field_is_named() -> None:
    assert refused(b'{"messages": []}').param == "model"
    assert refused(b'{"model": "tiny"}').param == "messages"


def test_an_unknown_field_is_told_apart_from_a_wrong_one() -> None:
    assert refused(json.dumps(chat_body(tools=[])).encode()).code == "unknown_parameter"
    assert refused(json.dumps(chat_body(n=2)).encode()).code != "unknown_parameter"


def test_fields_arrive_in_the_generate_request() -> None:
    request = checked(
        max_completion_tokens=9,
        temperature=0,
        top_p=0.5,
        top_k=2**31,
        seed=2**53 - 1,
        stop=["a", "b"],
        s2d={"mode": "force", "trace": True},
    )
    sampling = request.sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p) == (9, 0.0, 0.5)
    assert (sampling.top_k, sampling.seed, sampling.stop) == (2**31, 2**53 - 1, ("a", "b"))
    assert (request.request_id, request.mode, request.trace) == ("id", Mode.FORCE, True)
    assert request.prompt.messages == ({"role": "user", "content": "hi"},)


def test_null_and_harmless_fields_change_nothing() -> None:
    optional = [
        "stream stream_options max_tokens max_completion_tokens temperature top_p top_k stop s2d",
        "n logprobs frequency_penalty presence_penalty user safety_identifier prompt_cache_key",
        "service_tier store metadata",
    ]
    nulls = dict.fromkeys(" ".join(optional).split())
    harmless = {
        "n": 1,
        "logprobs": False,
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "user": "u",
        "safety_identifier": "u",
        "prompt_cache_key": "k",
        "service_tier": "auto",
        "store": False,
        "metadata": {"a": "b"},
    }
    inner = dict.fromkeys(SpeculationOptions.model_fields)
    plain = checked(seed=1)
    assert checked(seed=1, **nulls) == plain
    assert checked(seed=1, **harmless) == plain
    assert checked(seed=1, s2d=inner) == plain
    assert checked(seed=1, max_tokens=5, max_completion_tokens=5).sampling.max_tokens == 5


def test_defaults_are_those_of_the_config_and_of_openai() -> None:
    request = checked(seed=None)
    assert request.plan == PLAN
    assert (request.mode, request.trace) == (Mode.AUTO, False)
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (1.0, 1.0, 0)
    assert (sampling.max_tokens, sampling.stop) == (None, ())


def test_a_missing_seed_is_drawn_from_53_bits() -> None:
    seeds = {checked().sampling.seed for _ in range(64)}
    assert len(seeds) == 64
    assert max(seeds) >= 2**48
    assert all(0 <= seed < 2**53 for seed in seeds)


@pytest.mark.parametrize(
    ("fields", "plan"),
    [
        ({"exit_thresholds": []}, Plan((), 0.1, 6)),
        ({"exit_thresholds": [1, 0.5, 0.0]}, Plan((1.0, 0.5, 0.0), 0.1, 6)),
        ({"stop_threshold": 0}, Plan((0.25, 0.75), 0.0, 6)),
        ({"max_proposal": 0}, Plan((0.25, 0.75), 0.1, 0)),
    ],
)
def test_s2d_fields_replace_the_default_plan_one_by_one(fields: dict[str, Any], plan: Plan) -> None:
    assert checked(s2d=fields).plan == plan


def test_developer_is_system_and_text_parts_are_paragraphs() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    request = checked(
        messages=[{"role": "developer", "content": "x"}, {"role": "user", "content": parts}]
    )
    assert request.prompt.messages == (
        {"role": "system", "content": "x"},
        {"role": "user", "content": "a\nb"},
    )


def test_a_reply_can_be_sent_back_as_history() -> None:
    message = Reply(checked(), "tiny", 0).whole(list(TRACED), FINISHED)["choices"][0]["message"]
    nulls = dict.fromkeys(["refusal", "annotations", "audio", "function_call", "tool_calls"])
    request = checked(messages=[USER, message | nulls, USER])
    assert request.prompt.messages[1] == {"role": "assistant", "content": TEXT}


def test_mean_accepted_length_counts_the_targets_own_token() -> None:
    reply = Reply(checked(), "tiny", 0)
    assert reply.whole([], FINISHED)["s2d"]["mean_accepted_length"] == 2.0
    nothing = Finished(FinishReason.LENGTH, Usage(prompt_tokens=7))
    assert reply.whole([], nothing)["s2d"]["mean_accepted_length"] == 1.0
